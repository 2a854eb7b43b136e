"""Tables and pages, made from records and never from a model."""

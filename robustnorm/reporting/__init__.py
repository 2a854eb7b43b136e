"""Tables, figures and pages, made from records only, never from a model."""

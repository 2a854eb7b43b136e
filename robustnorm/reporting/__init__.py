"""Tables, figures and pages, made only from records, never from a model."""

"""Making a whole model sparse."""

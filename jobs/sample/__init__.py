"""Populations of models without a fit: draws in the bounds, kept when they behave like the recorded cell."""

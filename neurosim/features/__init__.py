"""E-features: of recordings and of models, their targets, and their scores."""

"""Which parameters a model's features depend on: Sobol indices about a model, by three routes."""

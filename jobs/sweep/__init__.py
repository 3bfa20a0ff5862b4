"""Hyperparameter sweeps over training jobs."""

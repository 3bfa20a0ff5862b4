"""Populations of fitted neuron models and cell-identity learners, on a laptop or on a Ray cluster."""

__version__ = "0.2.0.dev0"

"""Fits of neuron models: the cells of a job through their stages, all over one pool."""

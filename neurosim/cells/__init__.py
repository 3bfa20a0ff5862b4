"""Cells as BluePyOpt models: morphology, mechanisms, parameters, and their simulation in NEURON."""

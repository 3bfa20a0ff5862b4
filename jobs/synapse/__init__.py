"""Postsynaptic potentials along the apical dendrite of models."""

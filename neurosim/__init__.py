"""NEURON models and their fitting, and nothing of Ray: every part can be called in a notebook."""

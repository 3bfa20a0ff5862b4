"""SIMS trainings: labelled cells in, a model folder with its scores and report out."""

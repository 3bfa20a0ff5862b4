"""Prediction: the class of each cell of a query by a trained model."""

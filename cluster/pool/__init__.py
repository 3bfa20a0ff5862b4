"""Evaluations on many hosts under deadlines."""

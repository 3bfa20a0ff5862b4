"""The routes to the same indices, by the names that they have in tables."""

CHAOS = "polynomial-chaos"
"""Of total order 4, as the paper has it."""

BEST = "best-order"
"""Polynomial chaos of the order, up to 4, that foretells a feature best; from the same runs."""

SALIB, UNCERTAINPY = "salib", "uncertainpy"

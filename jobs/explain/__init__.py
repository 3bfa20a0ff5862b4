"""Explanation: the genes that speak for a class, and how far they can be trusted."""

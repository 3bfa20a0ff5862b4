"""Perisomatic models: active channels at the soma alone, fitted to one sweep (the 2018 recipe)."""

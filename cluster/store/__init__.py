"""The stored results of a run, and the access to them."""

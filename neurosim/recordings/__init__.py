"""Patch-clamp recordings, read from and written to NWB files."""

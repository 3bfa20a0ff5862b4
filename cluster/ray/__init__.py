"""Connections to Ray, and what goes over them besides the pool: jobs, shards, checks."""

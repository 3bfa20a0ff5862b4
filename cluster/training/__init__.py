"""Training of Lightning modules, in this process or on the workers of a Ray cluster."""

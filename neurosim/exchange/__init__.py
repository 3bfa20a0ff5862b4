"""Models and recordings of others, and models written for others."""

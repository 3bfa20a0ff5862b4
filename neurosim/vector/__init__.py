"""Many individuals of one cell simulated as one vector: NMODL made into a kernel of the machine's own."""

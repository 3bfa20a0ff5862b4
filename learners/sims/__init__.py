"""SIMS: label transfer for single-cell RNA sequencing by sparse, masked networks (TabNet)."""

"""Training jobs: a learner, a reference, a split."""

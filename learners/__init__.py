"""Cell-identity learners, and nothing of Ray. The first of them comes with the training road."""

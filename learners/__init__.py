"""Cell-identity learners, and nothing of Ray."""

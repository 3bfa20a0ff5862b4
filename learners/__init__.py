"""Cell-identity learners (SIMS, HIPPIE, NeuPRINT), their inputs, and how they are scored; nothing of Ray."""

"""Learners' jobs: trainings, sweeps and evaluations of SIMS, HIPPIE and NeuPRINT; predict, embed, explain."""

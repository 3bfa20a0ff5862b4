"""HIPPIE jobs: spike-sorted units in, models, embeddings and comparisons of methods out."""

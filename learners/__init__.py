"""Learners of cell identity, their inputs, and how they are scored. Nothing here knows of Ray.

- ``sims``: classes of cells from single-cell RNA sequencing; ``cells`` opens and normalises cells × genes.
- ``hippie``: classes and embeddings of spike-sorted units; ``units`` opens them.
- ``neuprint``: embeddings and classes of neurons from recordings of populations.
- ``model_folder``: models are written and read; ``load_model`` opens one of any learner.
- ``splits``, ``folds``: parts of samples for training and testing; ``local_training``: a training in this process;
  ``progress``: what is said meanwhile.
- ``scores``, ``calibration``, ``unknown_labels``, ``label_controls``, ``method_comparison``: how good predictions
  are.
- ``probes``: small classifiers on vectors; ``embedding_tables``: embeddings as tables; ``reference_map``: a map of
  what a model was trained on.
"""

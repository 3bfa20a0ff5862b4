"""A map of vectors in the plane, for tables and pictures."""

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SEED = 0
NEIGHBOURS = 15


def mapped(vectors: "np.ndarray") -> "np.ndarray":
    """Return a map of vectors (n, d) by UMAP, (n, 2); two principal components of fewer than 5."""
    import numpy as np

    if len(vectors) < 5:
        from sklearn.decomposition import PCA

        flat = PCA(min(2, *vectors.shape)).fit_transform(vectors)
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        made = UMAP(n_neighbors=min(NEIGHBOURS, len(vectors) - 1), random_state=SEED)
        return made.fit_transform(vectors).astype(np.float32)

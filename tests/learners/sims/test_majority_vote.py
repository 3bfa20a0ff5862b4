"""Labels by the majority of a cluster."""

import numpy as np

from neurofleet.learners.sims.majority_vote import Votes, cluster_cells


def test_each_cluster_has_the_label_of_most_of_its_cells():
    rng = np.random.default_rng(0)
    centres = 20 * rng.normal(size=(5, 4))
    group = rng.integers(0, 5, 1000)
    coordinates = (centres[group] + rng.normal(size=(1000, 4))).astype(np.float32)
    clusters = cluster_cells(lambda: iter(np.array_split(coordinates, 7)), 1000)
    np.testing.assert_array_equal(clusters, cluster_cells(lambda: iter([coordinates]), 1000))
    assert len(np.unique(clusters)) > 5
    noisy = np.where(rng.random(1000) < 0.2, rng.integers(0, 5, 1000), group)
    winners, share = Votes.of(clusters, noisy, clusters.max() + 1, 5).winners()
    assert (winners[clusters] == group).mean() > 0.98 > (noisy == group).mean()
    assert 0.6 < share[clusters].mean() < 0.95


def test_a_label_needs_its_share():
    clusters, labels = np.array([0, 0, 0, 1, 1]), np.array([2, 2, 0, 1, 0])
    votes = Votes.of(clusters[:3], labels[:3], 2, 3) + Votes.of(clusters[3:], labels[3:], 2, 3)
    winners, share = votes.winners(0.6)
    assert list(winners) == [2, -1]
    np.testing.assert_allclose(share, [2 / 3, 1 / 2])

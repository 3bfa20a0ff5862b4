"""The share of the linear model that validation cells choose."""

import numpy as np
import pytest

from neurofleet.learners.sims.linear_share import choose_share, mixed

RNG = np.random.default_rng(0)
TRUE = RNG.integers(3, size=300)


def answers(strength, noise=1.0, seed=0):
    """Return log-probabilities that know the true class the better, the larger `strength` is."""
    logits = noise * np.random.default_rng(seed).normal(size=(len(TRUE), 3))
    logits[np.arange(len(TRUE)), TRUE] += strength
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_part_answers_alone_where_the_other_only_disturbs(share):
    parts = [answers(2.0, seed=1), answers(0.0, 8.0, seed=2)]
    networks, linear = reversed(parts) if share else parts
    chosen = choose_share(networks, linear, TRUE)
    assert chosen.share == share
    assert "alone: on 300 validation cells" in chosen.in_words()
    log_losses = {one.share: one.log_loss for one in chosen.tried}
    assert log_losses[share] == min(log_losses.values())


def test_parts_that_are_as_good_are_averaged_and_a_few_cells_change_nothing():
    networks, linear = answers(2.0, seed=1), answers(2.0, seed=2)
    chosen = choose_share(networks, linear, TRUE)
    assert chosen.share == 0.5
    assert "one half each" in chosen.in_words()
    assert chosen.to_dict()["cells"] == 300
    # A little better on eight cells is within the noise; and with no error there is nothing to gain.
    assert choose_share(answers(2.2, seed=1)[:8], linear[:8], TRUE[:8]).share == 0.5
    assert choose_share(answers(50.0), answers(9.0), TRUE).share == 0.5


def test_a_share_that_is_given_is_kept_and_calibrated():
    networks, linear = answers(2.0, seed=1), answers(0.5, seed=2)
    chosen = choose_share(networks, linear, TRUE, [0.9])
    assert chosen.share == 0.9
    assert chosen.calibration.n == 300
    assert chosen.in_words() == ""
    assert choose_share(networks, None, TRUE).share == 0.0
    np.testing.assert_allclose(np.exp(mixed(networks, linear, 0.25)), 0.75 * np.exp(networks) + 0.25 * np.exp(linear))

"""Hand statistics of neurons, against scipy and a plain computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from neurofleet.learners.neuprint.activity_statistics import hand_statistics
from neurofleet.learners.neuprint.population_recordings import Recording, gathered
from tests.learners.neuprint.synthetic_animals import synthetic_recordings


def recording(session: str, ids: list[str], *, seed: int, gaps: float = 0.0) -> Recording:
    rng = np.random.default_rng(seed)
    shape = (400, len(ids))
    activity = np.cumsum(rng.standard_normal(shape), axis=0) ** 2
    valid = rng.random(shape) >= gaps
    activity = np.where(valid, activity, np.nan)
    activity = (activity - np.nanmean(activity, axis=0)) / np.nanstd(activity, axis=0)
    return Recording(
        animal="m",
        session=session,
        activity=np.nan_to_num(activity).astype(np.float32),
        valid=valid,
        behaviour=rng.standard_normal((400, 1)).astype(np.float32),
        behaviour_names=("speed",),
        rate_hz=4.0,
        neuron_ids=np.array(ids),
    )


def values(*recordings: Recording) -> pd.DataFrame:
    joined = gathered(recordings, [pd.DataFrame(index=range(one.n_neurons)) for one in recordings])
    found = hand_statistics(joined)
    return pd.DataFrame(found.values, index=joined.neurons.index, columns=list(found.names))


@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_statistics_equal_those_of_scipy_over_what_was_measured(gaps: float) -> None:
    one = recording("one", ["a", "b", "c"], seed=1, gaps=gaps)
    found = values(one)
    for column, name in enumerate("abc"):
        x, valid = one.activity[:, column].astype(float), one.valid[:, column]
        assert found.loc[name, "skewness"] == pytest.approx(stats.skew(x[valid]), abs=1e-3)
        assert found.loc[name, "kurtosis"] == pytest.approx(stats.kurtosis(x[valid]), abs=1e-3)
        assert found.loc[name, "median"] == pytest.approx(np.median(x[valid]), abs=1e-5)
        both = valid[1:] & valid[:-1]
        assert found.loc[name, "difference_variance"] == pytest.approx(np.diff(x)[both].var(), abs=1e-5)
        both = valid[4:] & valid[:-4]
        expected = np.corrcoef(x[4:][both], x[:-4][both])[0, 1]
        assert found.loc[name, "autocorrelation_4"] == pytest.approx(expected, abs=1e-5)
        speed = one.behaviour[valid, 0]
        assert found.loc[name, "with_speed"] == pytest.approx(np.corrcoef(x[valid], speed)[0, 1], abs=1e-5)


def test_the_population_is_that_of_the_others() -> None:
    one = recording("one", ["a", "b", "c"], seed=2)
    found = values(one)
    others = one.activity[:, 1:].mean(axis=1)
    expected = np.corrcoef(one.activity[:, 0], others)[0, 1]
    assert found.loc["a", "with_population"] == pytest.approx(expected, abs=1e-5)
    later = np.corrcoef(one.activity[2:, 0], others[:-2])[0, 1]
    assert found.loc["a", "with_population_+2"] == pytest.approx(later, abs=1e-5)


def test_a_neuron_of_two_recordings_has_the_mean_of_its_statistics() -> None:
    one = recording("one", ["a", "b", "c"], seed=3)
    two = replace(recording("two", ["c", "d"], seed=4), behaviour_names=("pupil",))
    together, first, second = values(one, two), values(one), values(two)
    assert together.loc["c", "skewness"] == pytest.approx(
        (first.loc["c", "skewness"] + second.loc["c", "skewness"]) / 2, abs=1e-6
    )
    assert together.loc["a", "skewness"] == first.loc["a", "skewness"]
    assert together.loc["c", "with_speed"] == first.loc["c", "with_speed"]
    assert together.loc["a", "with_pupil"] == 0.0
    assert np.isfinite(together.to_numpy()).all()


def test_without_the_population_its_correlations_are_left_out() -> None:
    recordings = synthetic_recordings(1, n_neurons=5, n_frames=200)
    everything, own = hand_statistics(recordings), hand_statistics(recordings, population=False)
    left_out = set(everything.names) - set(own.names)
    assert left_out == {"with_population", "with_population_-2", "with_population_+2"}
    assert len(everything.names) == 18

"""Statistics of the other neurons, against a loop over frames and neurons."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from neurofleet.learners.neuprint import session_tensors
from neurofleet.learners.neuprint.population_recordings import Recording, RecordingsRefused
from neurofleet.learners.neuprint.session_tensors import covariates

DELTA_UM = 60.0


def recording(frames: int, neurons: int, *, gaps: float = 0.0, dimensions: int = 2) -> Recording:
    rng = np.random.default_rng(frames + neurons)
    valid = rng.random((frames, neurons)) >= gaps
    activity = np.where(valid, rng.standard_normal((frames, neurons)), 0.0).astype(np.float32)
    return Recording(
        animal="m",
        session="s",
        activity=activity,
        valid=valid,
        behaviour=rng.standard_normal((frames, 2)).astype(np.float32),
        behaviour_names=("speed", "pupil"),
        rate_hz=4.3,
        neuron_ids=np.array([f"m/{number}" for number in range(neurons)]),
        positions_um=rng.uniform(0, 200, (neurons, dimensions)),
    )


def by_loop(recording: Recording, group: str) -> np.ndarray:
    frames, neurons = recording.activity.shape
    result = np.zeros((frames, neurons, 2))
    for neuron in range(neurons):
        distance = np.sqrt(((recording.positions_um - recording.positions_um[neuron]) ** 2).sum(axis=1))
        wanted = {
            "population": distance >= 0,
            "centre": distance < DELTA_UM,
            "surround": distance >= DELTA_UM,
        }
        others = wanted[group].copy()
        others[neuron] = False
        for frame in range(frames):
            values = recording.activity[frame, others & recording.valid[frame]].astype(float)
            if len(values):
                result[frame, neuron] = values.mean(), values.std()
    return result


@pytest.mark.parametrize("dimensions", [2, 3])
def test_statistics_equal_those_of_a_loop_with_gaps_and_in_several_blocks(
    dimensions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_tensors, "VALUES_AT_ONCE", 40 * 7)
    recorded = recording(30, 40, gaps=0.3, dimensions=dimensions)
    found = covariates(recorded, ("behaviour", "population", "centre", "surround"), DELTA_UM)
    assert found.names == (
        "speed", "pupil", "population_mean", "population_sd", "centre_mean", "centre_sd",
        "surround_mean", "surround_sd",
    )  # fmt: skip
    assert found.per_neuron.dtype == np.float32
    np.testing.assert_array_equal(found.shared, recorded.behaviour)
    for place, group in enumerate(("population", "centre", "surround")):
        expected = by_loop(recorded, group)
        np.testing.assert_allclose(found.per_neuron[:, :, 2 * place : 2 * place + 2], expected, atol=2e-6)


def test_a_neuron_is_in_none_of_its_own_statistics() -> None:
    recorded = recording(12, 9)
    changed = recorded.activity.copy()
    changed[:, 4] = 1000.0
    parts = ("population", "centre", "surround")
    before = covariates(recorded, parts, DELTA_UM).per_neuron
    after = covariates(replace(recorded, activity=changed), parts, DELTA_UM).per_neuron
    np.testing.assert_allclose(after[:, 4], before[:, 4], atol=1e-4)
    assert np.abs(after[:, 3] - before[:, 3]).max() > 10


def test_an_empty_centre_and_a_lonely_neuron_give_zeros() -> None:
    recorded = recording(6, 2)
    far = replace(recorded, positions_um=np.array([[0.0, 0.0], [DELTA_UM, 0.0]]))
    own = covariates(far, ("centre", "surround"), DELTA_UM).per_neuron
    assert (own[:, :, :2] == 0).all()
    np.testing.assert_allclose(own[:, 0, 2], recorded.activity[:, 1], rtol=1e-6)
    assert (covariates(recording(6, 1), ("population",)).per_neuron == 0).all()


def test_the_order_of_the_parts_does_not_matter() -> None:
    recorded = recording(6, 5)
    one = covariates(recorded, ("surround", "behaviour", "population"), DELTA_UM)
    other = covariates(recorded, ("behaviour", "population", "surround"), DELTA_UM)
    assert one.names == other.names
    np.testing.assert_array_equal(one.per_neuron, other.per_neuron)


def test_no_parts_give_no_columns() -> None:
    found = covariates(recording(6, 5), ())
    assert found.shared.shape == (6, 0)
    assert found.per_neuron.shape == (6, 5, 0)
    assert found.names == ()


def test_a_whole_session_takes_little_more_memory_than_its_result() -> None:
    recorded = recording(5000, 500)
    tracemalloc.start()
    found = covariates(recorded, ("population", "centre", "surround"), DELTA_UM)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.per_neuron.shape == (5000, 500, 6)
    assert peak < found.per_neuron.nbytes + 100e6


@pytest.mark.parametrize(
    ("parts", "delta_um", "change", "message"),
    [
        (("popluation",), None, {}, "did you mean 'population'"),
        (("centre",), None, {}, "radius delta_um above 0"),
        (("surround",), -3.0, {}, "radius delta_um above 0"),
        (("centre",), 65.0, {"positions_um": None}, "has no positions"),
        (
            ("behaviour",),
            None,
            {"behaviour": np.zeros((6, 0), np.float32), "behaviour_names": ()},
            "has no behaviour",
        ),
    ],
)
def test_what_a_recording_lacks_is_refused(
    parts: tuple[str, ...], delta_um: float | None, change: dict[str, object], message: str
) -> None:
    with pytest.raises(RecordingsRefused, match=message):
        covariates(replace(recording(6, 5), **change), parts, delta_um)  # type: ignore[arg-type]

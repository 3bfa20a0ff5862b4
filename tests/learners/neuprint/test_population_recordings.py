"""Sets of recordings: neurons behind them, labels that contradict, sessions that are too short."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from neurofleet.learners.neuprint.population_recordings import Recording, RecordingsRefused, gathered, long_enough


def recording(session: str, ids: list[str], *, frames: int = 20, animal: str = "m1") -> Recording:
    rng = np.random.default_rng(len(session))
    return Recording(
        animal=animal,
        session=session,
        activity=rng.standard_normal((frames, len(ids))).astype(np.float32),
        valid=np.ones((frames, len(ids)), dtype=bool),
        behaviour=np.zeros((frames, 0), dtype=np.float32),
        behaviour_names=(),
        rate_hz=4.3,
        neuron_ids=np.array(ids),
    )


def test_a_neuron_of_two_sessions_is_one_row_with_the_label_that_either_gives() -> None:
    one, two = recording("one", ["a", "b", "c"]), recording("two", ["c", "a", "d"])
    labels = [pd.DataFrame({"class": ["EC", "", "IN"]}), pd.DataFrame({"class": ["IN", "EC", ""]})]
    both = gathered([one, two], labels)
    assert list(both.neurons.index) == ["a", "b", "c", "d"]
    assert list(both.labels("class")) == ["EC", "", "IN", ""]
    assert list(both.number(one)) == [0, 1, 2]
    assert list(both.number(two)) == [2, 0, 3]
    assert both.notes == ()


def test_contradictory_labels_count_as_missing_and_are_noted() -> None:
    labels = [pd.DataFrame({"class": ["EC", "IN"]}), pd.DataFrame({"class": ["IN", "IN"]})]
    both = gathered([recording("one", ["a", "b"]), recording("two", ["a", "b"])], labels)
    assert list(both.labels("class")) == ["", "IN"]
    assert len(both.notes) == 1
    assert "1 neurons" in both.notes[0]
    assert "such as a" in both.notes[0]


def test_a_label_that_only_one_recording_has_is_missing_in_the_other() -> None:
    labels = [pd.DataFrame({"class": ["EC"]}), pd.DataFrame(index=range(1))]
    both = gathered([recording("one", ["a"]), recording("two", ["x"], animal="m2")], labels)
    assert list(both.labels("class")) == ["EC", ""]
    assert list(both.labels("animal")) == ["m1", "m2"]
    assert both.animals == ("m1", "m2")
    assert both.notes == ("No neuron of two has a label 'class'; those of other sessions have.",)


def test_an_unknown_label_is_refused_with_the_nearest() -> None:
    both = gathered([recording("one", ["a"])], [pd.DataFrame({"subclass": ["Vip"]})])
    with pytest.raises(RecordingsRefused, match="did you mean 'subclass'"):
        both.labels("subclas")


def test_short_sessions_are_left_out_with_the_neurons_that_only_they_have() -> None:
    long, short = recording("long", ["a", "b"], frames=30), recording("short", ["b", "c"], frames=10)
    empty = [pd.DataFrame(index=range(2))] * 2
    kept = long_enough(gathered([short, long], empty), 20)
    assert kept.recordings == (long,)
    assert sorted(kept.neurons.index) == ["a", "b"]
    assert "short was left out: 10 frames" in kept.notes[0]
    with pytest.raises(RecordingsRefused, match="at least 31 frames.*has 30"):
        long_enough(gathered([short, long], empty), 31)


def test_neurons_of_another_set_are_refused() -> None:
    both = gathered([recording("one", ["a"])], [pd.DataFrame(index=range(1))])
    with pytest.raises(RecordingsRefused, match="not in the table"):
        both.number(recording("two", ["z"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neuron_ids": np.array(["a", "a"])}, "distinct neuron ids"),
        ({"neuron_ids": np.array(["a"])}, "expected 2 distinct"),
        ({"positions_um": np.zeros((3, 2))}, "positions of 2 neurons"),
        ({"positions_um": np.zeros((2, 4))}, "2 or 3 coordinates"),
        ({"behaviour_names": ("speed",)}, "behaviour of 20 x 1"),
        ({"rate_hz": 0.0}, "above 0 Hz"),
        ({"valid": np.ones((20, 1), dtype=bool)}, "valid mask"),
    ],
)
def test_a_recording_whose_parts_do_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecordingsRefused, match=message):
        replace(recording("one", ["a", "b"]), **change)  # type: ignore[arg-type]

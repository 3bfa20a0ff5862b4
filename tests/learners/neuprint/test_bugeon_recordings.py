"""The layout of the Bugeon et al. (2022) release, on a small tree made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurofleet.learners.neuprint.population_recordings import RecordingsRefused
from neurofleet.learners.neuprint.recording_files import open_recordings

TYPES = ["EC", "IN", "Pvalb-Reln-Itm2a", "Vip-Car4", "", "Sst-Chodl"]


def write_run(folder: Path, neurons: int, *, start_s: float = 100.0, frames: int = 50) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(neurons + frames)
    times = start_s + np.arange(frames) / 4.3
    fine = np.linspace(start_s - 1, start_s + frames / 4.3 + 1, 400)
    np.save(folder / "frame.neuralActivity.npy", rng.standard_normal((frames, neurons)))
    np.save(folder / "frame.times.npy", times[:, None])
    np.save(folder / "frame.states.npy", (np.arange(frames) // 10 % 3).astype(float)[:, None])
    np.save(folder / "running.speed.npy", np.abs(np.sin(fine))[:, None])
    np.save(folder / "running.times.npy", fine[:, None])
    pupil = np.cos(fine)
    pupil[30:50] = np.nan
    np.save(folder / "eye.size.npy", pupil)
    np.save(folder / "eye.times.npy", fine)


def write_session(folder: Path, ids: list[float], types: list[str]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(ids))
    np.save(folder / "neuron.UniqueID.npy", np.array(ids, dtype=float)[:, None])
    np.save(folder / "neuron.gene_count.npy", rng.poisson(1.0, (len(ids), 72)))
    np.save(folder / "neuron.stackPosCorrected.npy", rng.uniform(0, 500, (len(ids), 3)))
    (folder / "neuron.ttype.txt").write_text("\n".join(types) + "\n")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    first, second = root / "SB025" / "2019-10-07", root / "SB025" / "2019-10-09"
    write_session(first, [11, np.nan, 13, 14, 15, 16], TYPES)
    write_run(first / "Blank" / "01", 6)
    write_run(first / "Drifting Gratings" / "02", 6, start_s=400.0, frames=70)
    write_session(second, [13, 14, np.nan, 99], ["Pvalb-Tac1", "Sst-Chodl", "EC", "IN"])
    write_run(second / "Blank" / "01", 4)
    third = root / "SB026" / "2019-11-01"
    write_session(third, [11, 12], ["IN", "EC"])
    write_run(third / "Blank" / "01", 2)
    (root / "ttypes.names.txt").write_text("\n".join(sorted(set(TYPES))))
    (root / "genes.names.txt").write_text("\n".join(f"Gene{number}" for number in range(72)))
    return root


def test_the_release_as_a_whole(release: Path) -> None:
    recordings = open_recordings(release)
    assert [(recording.animal, recording.session) for recording in recordings.recordings] == [
        ("SB025", "2019-10-07/Blank/01"),
        ("SB025", "2019-10-07/Drifting Gratings/02"),
        ("SB025", "2019-10-09/Blank/01"),
        ("SB026", "2019-11-01/Blank/01"),
    ]
    first = recordings.recordings[0]
    assert first.activity.shape == (50, 6)
    assert first.behaviour_names == ("running_speed", "pupil_size", "frame_state")
    assert first.rate_hz == pytest.approx(4.3)
    assert first.positions_um.shape == (6, 3)
    assert np.isfinite(first.behaviour).all()


def test_equal_ids_of_one_animal_are_one_neuron_and_unmatched_ones_are_known_in_their_session(
    release: Path,
) -> None:
    recordings = open_recordings(release)
    blank, gratings, later, other = recordings.recordings
    np.testing.assert_array_equal(blank.neuron_ids, gratings.neuron_ids)
    assert set(blank.neuron_ids) & set(later.neuron_ids) == {"SB025/13", "SB025/14"}
    assert not set(blank.neuron_ids) & set(other.neuron_ids)
    assert blank.neuron_ids[1] == "SB025/2019-10-07/#1"
    assert later.neuron_ids[2] == "SB025/2019-10-09/#2"
    assert len(recordings.neurons) == 6 + 2 + 2


def test_types_give_class_and_subclass_and_contradictions_are_noted(release: Path) -> None:
    recordings = open_recordings(release)
    labels = recordings.neurons.loc[list(recordings.recordings[0].neuron_ids)]
    assert list(labels["class"]) == ["EC", "IN", "IN", "IN", "", "IN"]
    assert list(labels["subclass"]) == [
        "",
        "",
        "Pvalb",
        "",
        "",
        "Sst",
    ]  # 14 is Vip on one day, Sst on another
    assert sum("different labels 'subclass'" in note for note in recordings.notes) == 1


def test_a_mouse_a_session_and_some_stimuli(release: Path) -> None:
    assert len(open_recordings(release / "SB025").recordings) == 3
    assert len(open_recordings(release / "SB025" / "2019-10-07").recordings) == 2
    assert open_recordings(release / "SB026").animals == ("SB026",)
    blank = open_recordings(release, {"stimuli": ["Blank"]})
    assert {recording.session.split("/")[1] for recording in blank.recordings} == {"Blank"}


def test_a_folder_that_was_entered_keeps_the_names_of_its_mouse(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(release / "SB025" / "2019-10-07")
    assert open_recordings(".").animals == ("SB025",)
    assert open_recordings("../2019-10-09").recordings[0].session == "2019-10-09/Blank/01"
    assert open_recordings("..").animals == ("SB025",)


def test_behaviour_that_a_run_lacks_is_noted_or_refused_where_asked_for(release: Path) -> None:
    (release / "SB026" / "2019-11-01" / "Blank" / "01" / "eye.size.npy").unlink()
    recordings = open_recordings(release / "SB026")
    assert recordings.recordings[0].behaviour_names == ("running_speed", "frame_state")
    assert any("no behaviour 'pupil_size'" in note for note in recordings.notes)
    with pytest.raises(RecordingsRefused, match=r"no eye\.size\.npy, which behaviour 'pupil'"):
        open_recordings(release / "SB026", {"behaviour": {"pupil": "pupil_size"}})


def test_what_the_release_does_not_have_is_refused(release: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingsRefused, match="did you mean 'Blank'"):
        open_recordings(release, {"stimuli": ["blank"]})
    with pytest.raises(RecordingsRefused, match="did you mean 'running_speed'"):
        open_recordings(release, {"behaviour": ["runing_speed"]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingsRefused, match="nor a session of the Bugeon release"):
        open_recordings(tmp_path / "empty")


def test_damaged_files_are_named(release: Path) -> None:
    session = release / "SB026" / "2019-11-01"
    (session / "neuron.ttype.txt").write_text("EC\nIN\nEC\n")
    with pytest.raises(RecordingsRefused, match="2 neurons, but there are 3 labels"):
        open_recordings(session)
    (session / "neuron.ttype.txt").write_text("EC\nIN\n")
    times = session / "Blank" / "01" / "frame.times.npy"
    whole = times.read_bytes()
    times.write_bytes(whole[:100])
    with pytest.raises(RecordingsRefused, match=r"frame\.times\.npy: cannot be read"):
        open_recordings(session)
    times.unlink()
    with pytest.raises(RecordingsRefused, match=r"frame\.times\.npy: there is no such file"):
        open_recordings(session)
    np.save(times, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RecordingsRefused, match="without pickle"):
        open_recordings(session)

"""What NeuPRINT's jobs read: recordings, labels and splits, checked before anything is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.carrying_out import refuse_missing
from jobs.errors import UsageError
from jobs.neuprint.spec import EvaluateSpec, NeuprintSpec

if TYPE_CHECKING:
    import numpy as np

    from learners.neuprint.downstream import Mode
    from learners.neuprint.recordings import Recordings
    from learners.neuprint.settings import Settings
    from learners.splits import Split


@dataclass(frozen=True)
class Inputs:
    """A job's input.

    Attributes
    ----------
    recordings : Recordings
    splits : list of Split
    classes : array of str, shape (neurons,)
        "" where there is none, or one with too few neurons.
    settings : dict
        Settings by name: ``phi`` as the job says, and with an ablation the others.
    sources : dict
        What opens the recordings again in another process.
    notes : list of str
    """

    recordings: "Recordings"
    splits: "list[Split]"
    classes: "np.ndarray"
    settings: "dict[str, Settings]"
    sources: dict[str, Any]
    notes: list[str]

    @property
    def n_labelled(self) -> int:
        """Neurons that have a class."""
        return int((self.classes != "").sum())

    @property
    def counts(self) -> dict[str, int]:
        """Neurons of each class."""
        import numpy as np

        names, counts = np.unique(self.classes[self.classes != ""], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


def epochs_of(inputs: Inputs, settings: "Settings", mode: "Mode") -> int:
    """Return how many epochs a training of the first split has; the others have about as many."""
    from learners.neuprint.downstream import trained_neurons
    from learners.neuprint.task import Task

    neurons = trained_neurons(inputs.recordings, inputs.splits[0], mode)
    return Task(inputs.recordings, neurons, settings).epochs()


def read_inputs(spec: NeuprintSpec, folder: Path) -> tuple[Inputs, list[str]]:
    """Open and check a job's input, and say what is to be said of it.

    Raises
    ------
    UsageError, LearnerError
        A file is missing, or what is in it cannot be used.
    """
    import numpy as np

    from learners.neuprint.opening import open_recordings

    refuse_missing(spec, folder)
    if "umap" in spec.methods:
        _refuse_without_umap()
    sources: dict[str, Any] = {
        "paths": [str((folder / path).resolve()) for path in spec.recordings],
        "layout": spec.layout,
    }
    recordings = open_recordings(**sources)
    splits = _splits(spec, recordings)
    settings = _settings(spec, recordings)
    _refuse_unfit(recordings, settings)
    classes = np.where(splits[0].role == "excluded", "", recordings.labels(spec.label))
    notes = [*recordings.notes, *dict.fromkeys(note for split in splits for note in split.notes)]
    return Inputs(recordings, splits, classes, settings, sources, notes), notes


def _splits(spec: NeuprintSpec, recordings: "Recordings") -> "list[Split]":
    from learners.neuprint.class_splits import class_splits
    from learners.neuprint.downstream import neuron_splits

    drawn: dict[str, Any] = {"animal": spec.animal, "seeds": spec.seeds, "fewest": spec.least_neurons}
    if spec.split_of is None:
        return neuron_splits(recordings, spec.label, spec.mode, **drawn)
    return class_splits(recordings, spec.label, spec.split_of, spec.mode, **drawn)


def _settings(spec: NeuprintSpec, recordings: "Recordings") -> "dict[str, Settings]":
    from learners.neuprint.downstream import ablations, growing_inputs

    if not (isinstance(spec, EvaluateSpec) and spec.ablation):
        return {"phi": spec.chosen}
    has_positions = all(recording.positions_um is not None for recording in recordings.recordings)
    if spec.ablation is True:
        return ablations(spec.chosen, has_positions)
    channels = spec.chosen.behaviour or recordings.recordings[0].behaviour_names
    return growing_inputs(spec.chosen, channels, has_positions)


def _refuse_unfit(recordings: "Recordings", settings: "dict[str, Settings]") -> None:
    """Raise where recordings are too short, or lack what a dynamics is to see."""
    from learners.neuprint.sessions import frames_of, sessions_of

    richest = max(settings.values(), key=lambda one: len(one.parts))
    for session in sessions_of(recordings, richest):
        frames_of(session, richest)


def _refuse_without_umap() -> None:
    import importlib.util

    if importlib.util.find_spec("umap") is None:
        raise UsageError(
            "methods: umap needs the package umap-learn, which is not installed. Install it (pip install"
            " umap-learn), or leave umap out of `methods:`."
        )

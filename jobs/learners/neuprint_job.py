"""The job files of NeuPRINT, and what they read: recordings, labels and splits."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import PositiveInt
from neurofleet.jobs.learners.learner_job import LearnerSpec, Metrics, SweepKeys
from neurofleet.jobs.run_folder import refuse_missing
from neurofleet.learners.neuprint.dynamics_settings import PRESETS, NeuprintSettings, settings_of
from neurofleet.learners.neuprint.dynamics_training import NeuprintTask
from neurofleet.learners.neuprint.neuron_splits import (
    Mode,
    ablations,
    class_splits,
    growing_inputs,
    neuron_splits,
    trained_neurons,
)
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.recording_files import open_recordings
from neurofleet.learners.neuprint.session_tensors import frames_of, sessions_of
from neurofleet.learners.splits import Split

Method = Literal[
    "phi",
    "phi_and_hand",
    "hand_forest",
    "lolcat",
    "transformer_isi",
    "transformer_raw",
    "pca",
    "umap",
    "random",
]
QUICK: list[Method] = ["phi", "phi_and_hand", "hand_forest", "pca", "random"]
"""Those that take seconds."""

MODES: dict[str, "Mode"] = {"cross-animal": "cross", "pooled": "pooled", "single-animal": "single"}
"""What a job file calls the modes of `neurofleet.learners.neuprint.neuron_splits`."""


class NeuprintSpec(LearnerSpec):
    """What all jobs of NeuPRINT have in common."""

    planner: ClassVar[str] = "neurofleet.jobs.learners.neuprint_training:print_neuprint_plan"
    settings_model = NeuprintSettings
    presets = PRESETS

    learner: Literal["neuprint"]
    recordings: Annotated[list[Path], Field(min_length=1)]
    layout: dict[str, Any] = {}
    label: str
    least_neurons: Annotated[int, Field(ge=2)] = 8
    split: Literal["cross-animal", "pooled", "single-animal"] = "cross-animal"
    animal: str | None = None
    split_of: str | None = None
    seeds: PositiveInt = 1
    methods: Annotated[list[Method], Field(min_length=1)] = QUICK

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with its settings gathered under `settings`, and its recordings as a list."""
        own = cls.gathered(content)
        if isinstance(recordings := own.get("recordings"), str):
            own["recordings"] = [recordings]
        return own

    @model_validator(mode="after")
    def _animal_of_its_own(self) -> "NeuprintSpec":
        if self.animal is not None and self.split != "single-animal":
            raise ValueError(f"animal: goes with `split: single-animal`, found `split: {self.split}`")
        return self

    @model_validator(mode="after")
    def _split_of_another_label(self) -> "NeuprintSpec":
        if self.split_of is not None and self.split == "cross-animal":
            raise ValueError(
                "split_of: a cross-animal split tests all neurons of an animal, whatever the label; it goes"
                " with `split: pooled` or `split: single-animal`"
            )
        if self.split_of == self.label:
            raise ValueError(f"split_of: expected another label than `label:`, found {self.label} for both")
        return self

    @property
    def chosen(self) -> NeuprintSettings:
        """The preset with the job's changes."""
        return settings_of(self.preset, self.settings)

    @property
    def mode(self) -> "Mode":
        """What `neurofleet.learners.neuprint.neuron_splits` calls the split."""
        return MODES[self.split]

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return list(self.recordings)


class NeuprintTrainSpec(NeuprintSpec):
    """A training of NeuPRINT (`kind: train`, `learner: neuprint`)."""

    runner: ClassVar[str] = "neurofleet.jobs.learners.neuprint_training:run_neuprint_training"

    kind: Literal["train", "sweep"] = "train"


class NeuprintSweepSpec(SweepKeys, NeuprintTrainSpec):
    """A sweep of NeuPRINT (`kind: sweep`, `learner: neuprint`).

    Trials are compared on the last frames of training neurons: no label is read before the best is known.
    """

    runner: ClassVar[str] = "neurofleet.jobs.learners.neuprint_training:run_neuprint_sweep"
    metrics: ClassVar[Metrics] = {"val_loss": ("val_loss", "min"), "val_r2": ("val_r2", "max")}

    kind: Literal["sweep"] = "sweep"

    @model_validator(mode="after")
    def _comparable(self) -> "NeuprintSweepSpec":
        if self.chosen.train_share == 1.0:
            raise ValueError("trials are compared on validation frames: `train_share` must be below 1")
        if "loss" in self.search and self.watched[0] == "val_loss":
            raise ValueError("trials with unlike losses cannot be compared by them: set `trials: {metric: val_r2}`")
        if "train_share" in self.search:
            raise ValueError("search: train_share decides on which frames trials are compared; leave it out")
        return self


class NeuprintEvaluateSpec(NeuprintSpec):
    """A comparison of methods on stored splits (`kind: evaluate`, `learner: neuprint`).

    With `ablation`, the dynamics is also fitted without what it sees beside each neuron's own past; with
    ``growing``, with one input more each time.
    """

    runner: ClassVar[str] = "neurofleet.jobs.learners.neuprint_training:run_neuprint_evaluation"

    kind: Literal["evaluate"] = "evaluate"
    seeds: PositiveInt = 5
    methods: Annotated[list[Method], Field(min_length=1)] = list(get_args(Method))
    ablation: bool | Literal["growing"] = False

    @model_validator(mode="after")
    def _something_to_ablate(self) -> "NeuprintEvaluateSpec":
        if self.ablation and "phi" not in self.methods:
            raise ValueError("ablation: compares what Phi tells; `methods:` must have phi")
        return self


@dataclass(frozen=True)
class NeuprintInputs:
    """A job's input.

    Attributes
    ----------
    recordings : Recordings
    splits : list of Split
    classes : array of str, shape (neurons,)
        "" where there is none, or one with too few neurons.
    settings : dict
        NeuprintSettings by name: ``phi`` as the job says, and with an ablation the others.
    sources : dict
        What opens the recordings again in another process.
    notes : list of str
    """

    recordings: "Recordings"
    splits: "list[Split]"
    classes: "np.ndarray"
    settings: "dict[str, NeuprintSettings]"
    sources: dict[str, Any]
    notes: list[str]

    @property
    def n_labelled(self) -> int:
        """Neurons that have a class."""
        return int((self.classes != "").sum())

    @property
    def counts(self) -> dict[str, int]:
        """Neurons of each class."""
        names, counts = np.unique(self.classes[self.classes != ""], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


def epochs_of(inputs: NeuprintInputs, settings: "NeuprintSettings", mode: "Mode") -> int:
    """Return how many epochs a training of the first split has; the others have about as many."""
    neurons = trained_neurons(inputs.recordings, inputs.splits[0], mode)
    return NeuprintTask(inputs.recordings, neurons, settings).epochs()


def read_neuprint_inputs(spec: NeuprintSpec, folder: Path) -> tuple[NeuprintInputs, list[str]]:
    """Open and check a job's input, and say what is to be said of it.

    Raises
    ------
    UsageError, LearnerError
        A file is missing, or what is in it cannot be used.
    """
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
    return NeuprintInputs(recordings, splits, classes, settings, sources, notes), notes


def _splits(spec: NeuprintSpec, recordings: "Recordings") -> "list[Split]":
    drawn: dict[str, Any] = {"animal": spec.animal, "seeds": spec.seeds, "fewest": spec.least_neurons}
    if spec.split_of is None:
        return neuron_splits(recordings, spec.label, spec.mode, **drawn)
    return class_splits(recordings, spec.label, spec.split_of, spec.mode, **drawn)


def _settings(spec: NeuprintSpec, recordings: "Recordings") -> "dict[str, NeuprintSettings]":
    if not (isinstance(spec, NeuprintEvaluateSpec) and spec.ablation):
        return {"phi": spec.chosen}
    has_positions = all(recording.positions_um is not None for recording in recordings.recordings)
    if spec.ablation is True:
        return ablations(spec.chosen, has_positions)
    channels = spec.chosen.behaviour or recordings.recordings[0].behaviour_names
    return growing_inputs(spec.chosen, channels, has_positions)


def _refuse_unfit(recordings: "Recordings", settings: "dict[str, NeuprintSettings]") -> None:
    """Raise where recordings are too short, or lack what a dynamics is to see."""
    richest = max(settings.values(), key=lambda one: len(one.parts))
    for session in sessions_of(recordings, richest):
        frames_of(session, richest)


def _refuse_without_umap() -> None:
    if importlib.util.find_spec("umap") is None:
        raise UsageError(
            "methods: umap needs the package umap-learn, which is not installed. Install it (pip install"
            " umap-learn), or leave umap out of `methods:`."
        )

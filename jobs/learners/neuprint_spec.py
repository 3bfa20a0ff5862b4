"""The job files of NeuPRINT: a training, a sweep and an evaluation."""

from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from neurofleet.jobs.job_file import DataPath, Label, PositiveInt
from neurofleet.jobs.learners.learner_spec import LearnerSpec, Metrics, SweepSpec
from neurofleet.learners.neuprint.dynamics_settings import PRESETS, NeuprintSettings, settings_of
from neurofleet.learners.neuprint.neuron_splits import Mode

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

QUICK_METHODS: tuple[Method, ...] = ("phi", "hand_forest")
"""Those of a quick job."""

MODES: dict[str, Mode] = {"cross-animal": "cross", "pooled": "pooled", "single-animal": "single"}
"""What a job file calls the modes of `neurofleet.learners.neuprint.neuron_splits`."""


class NeuprintSpec(LearnerSpec):
    """What all jobs of NeuPRINT have in common."""

    settings_model = NeuprintSettings
    presets = PRESETS
    layout_model = "neurofleet.learners.neuprint.recording_layout:RecordingLayout"
    data_keys = ("recordings",)

    learner: Literal["neuprint"]
    """NeuPRINT: classes of neurons from population recordings."""
    recordings: Annotated[list[DataPath], Field(min_length=1)]
    """Files or folders of recordings: the Bugeon release, NWB ophys, suite2p, CaImAn, npz; patterns are expanded."""
    layout: dict[str, Any] = {}
    """How arrays, series and columns of the files are called; the Bugeon release needs none."""
    label: Label
    """The label to classify neurons by."""
    least_neurons: Annotated[int, Field(ge=2)] = 8
    """Classes with fewer neurons are left out."""
    split: Literal["cross-animal", "pooled", "single-animal"] = "cross-animal"
    """Which neurons are held out: those of one animal at a time (`cross-animal`), a part of all (`pooled`), or a part
    of one animal (`single-animal`).
    """
    animal: Label | None = None
    """The animal of `split: single-animal`, where there are several."""
    split_of: Label | None = None
    """The label of finer classes. With `label: class`, `split_of: subclass`, classes that have subclasses hold out the
    neurons of the subclass task; of the others 80 / 10 / 10 % are drawn, as in the paper. Not with `split:
    cross-animal`.
    """
    seeds: PositiveInt = 1
    """How many seeds the dynamics and the probes are trained with."""
    methods: Annotated[list[Method], Field(min_length=1)] = QUICK
    """The methods that are compared. `umap`, `lolcat`, `transformer_isi` and `transformer_raw` take longer than the
    others.
    """

    quick_settings: ClassVar[dict[str, int]] = {"epochs": 2, "least_steps": 40, "inference_steps": 30}

    def quick_version(self) -> Self:
        """One seed, few steps, and the two methods that say most."""
        methods = [name for name in self.methods if name in QUICK_METHODS] or self.methods[:1]
        return super().quick_version().model_copy(update={"seeds": 1, "methods": methods})

    @model_validator(mode="after")
    def _animal_of_single_animal(self) -> "NeuprintSpec":
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
    def mode(self) -> Mode:
        """What `neurofleet.learners.neuprint.neuron_splits` calls the split."""
        return MODES[self.split]

    def files_named(self) -> list[str]:
        """Return all files that the job reads: paths, and URLs."""
        return list(self.recordings)


class NeuprintTrainSpec(NeuprintSpec):
    """A training of NeuPRINT (`kind: train`, `learner: neuprint`)."""

    kind: Literal["train", "sweep"] = "train"
    """A training."""


class NeuprintSweepSpec(SweepSpec, NeuprintTrainSpec):
    """A sweep of NeuPRINT (`kind: sweep`, `learner: neuprint`).

    Trials are compared on the last frames of training neurons: no label is read before the best is known.
    """

    metrics: ClassVar[Metrics] = {"val_loss": ("val_loss", "min"), "val_r2": ("val_r2", "max")}
    fixed_in_population = frozenset(
        (
            *("dynamics", "phi", "loss", "parts", "behaviour", "delta_um", "lags", "mean_form", "hidden", "context"),
            *("heads", "feed_forward", "window", "warm_up", "train_share", "batch_neurons", "batch_windows"),
            *("epochs", "least_steps", "schedule"),
        )
    )

    kind: Literal["sweep"] = "sweep"
    """A hyperparameter sweep."""

    @model_validator(mode="after")
    def _comparable(self) -> "NeuprintSweepSpec":
        if self.chosen.train_share == 1.0:
            raise ValueError("trials are compared on validation frames: `train_share` must be below 1")
        if "loss" in self.search and self.metric[0] == "val_loss":
            raise ValueError("trials with different losses cannot be compared by them: set `trials: {metric: val_r2}`")
        if "train_share" in self.search:
            raise ValueError("search: train_share decides on which frames trials are compared; leave it out")
        return self


class NeuprintEvaluateSpec(NeuprintSpec):
    """A comparison of methods on stored splits (`kind: evaluate`, `learner: neuprint`).

    With `ablation`, the dynamics is also fitted without what it sees beside each neuron's own past; with
    ``growing``, with one input more each time.
    """

    kind: Literal["evaluate"] = "evaluate"
    """A comparison of methods, without a model at the end."""
    seeds: PositiveInt = 5
    """How many seeds the dynamics and the probes are trained with."""
    methods: Annotated[list[Method], Field(min_length=1)] = list(get_args(Method))
    """The methods that are compared. `umap`, `lolcat`, `transformer_isi` and `transformer_raw` take longer than the
    others.
    """
    ablation: bool | Literal["growing"] = False
    """`true` compares the neuron's own past alone, behaviour, population, and all; `growing` adds one input at a time
    (each behaviour channel, the population, centre and surround), as in table 5 of the paper.
    """

    def quick_version(self) -> Self:
        """Without ablation."""
        return super().quick_version().model_copy(update={"ablation": False})

    @model_validator(mode="after")
    def _something_to_ablate(self) -> "NeuprintEvaluateSpec":
        if self.ablation and "phi" not in self.methods:
            raise ValueError("ablation: compares what Phi tells; `methods:` must have phi")
        return self

"""The job files of NeuPRINT: a training, a sweep, an evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from jobs.spec import PositiveInt
from jobs.sweep.spec import Metrics, Sweeping
from jobs.train.spec import LearnerSpec
from learners.neuprint.settings import PRESETS, Settings, settings_of

if TYPE_CHECKING:
    from learners.neuprint.downstream import Mode

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
"""What a job file calls the modes of `learners.neuprint.downstream`."""


class NeuprintSpec(LearnerSpec):
    """What all jobs of NeuPRINT have in common."""

    planner: ClassVar[str] = "jobs.neuprint.plan:print_plan"
    settings_model = Settings
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
    def chosen(self) -> Settings:
        """The preset with the job's changes."""
        return settings_of(self.preset, self.settings)

    @property
    def mode(self) -> "Mode":
        """What `learners.neuprint.downstream` calls the split."""
        return MODES[self.split]

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return list(self.recordings)


class TrainSpec(NeuprintSpec):
    """A training of NeuPRINT (`kind: train`, `learner: neuprint`)."""

    runner: ClassVar[str] = "jobs.neuprint.run:run_train"

    kind: Literal["train", "sweep"] = "train"


class SweepSpec(Sweeping, TrainSpec):
    """A sweep of NeuPRINT (`kind: sweep`, `learner: neuprint`).

    Trials are compared on the last frames of training neurons: no label is read before the best is known.
    """

    runner: ClassVar[str] = "jobs.neuprint.sweep:run_sweep"
    metrics: ClassVar[Metrics] = {"val_loss": ("val_loss", "min"), "val_r2": ("val_r2", "max")}

    kind: Literal["sweep"] = "sweep"

    @model_validator(mode="after")
    def _comparable(self) -> "SweepSpec":
        if self.chosen.train_share == 1.0:
            raise ValueError("trials are compared on validation frames: `train_share` must be below 1")
        if "loss" in self.search and self.watched[0] == "val_loss":
            raise ValueError(
                "trials with unlike losses cannot be compared by them: set `trials: {metric: val_r2}`"
            )
        if "train_share" in self.search:
            raise ValueError("search: train_share decides on which frames trials are compared; leave it out")
        return self


class EvaluateSpec(NeuprintSpec):
    """A comparison of methods on stored splits (`kind: evaluate`, `learner: neuprint`).

    With `ablation`, the dynamics is also fitted without what it sees beside each neuron's own past; with
    ``growing``, with one input more each time.
    """

    runner: ClassVar[str] = "jobs.neuprint.evaluate:run_evaluate"

    kind: Literal["evaluate"] = "evaluate"
    seeds: PositiveInt = 5
    methods: Annotated[list[Method], Field(min_length=1)] = list(get_args(Method))
    ablation: bool | Literal["growing"] = False

    @model_validator(mode="after")
    def _something_to_ablate(self) -> "EvaluateSpec":
        if self.ablation and "phi" not in self.methods:
            raise ValueError("ablation: compares what Phi tells; `methods:` must have phi")
        return self

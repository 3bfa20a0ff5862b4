"""What the report of a training tells, from the model at hand or from its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.sims.results import LEARNER
from jobs.train.folder import stored_model

if TYPE_CHECKING:
    import pyarrow as pa

    from learners.sims.model import SimsModel

HISTORY = "history.parquet"


@dataclass(frozen=True)
class Contents:
    """A training that has ended.

    Attributes
    ----------
    facts : mapping
        Scores, baselines, data, split, versions: see `jobs.sims.run`.
    classes : sequence of str
    settings, calibration : mapping
        As `model.json` keeps them.
    has_linear : bool
        Whether a linear model stands beside the networks.
    history : sequence of mapping
        A row for each epoch of each training; empty where the folder has lost it.
    """

    facts: Mapping[str, Any]
    classes: Sequence[str]
    settings: Mapping[str, Any]
    calibration: Mapping[str, Any]
    has_linear: bool
    history: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @property
    def scores(self) -> Mapping[str, Any]:
        """Scores of the whole model."""
        return self.facts["scores"]["sims"]

    @property
    def role(self) -> str:
        """Which cells were scored: ``test`` or ``validation``."""
        return str(self.facts["role"])

    @property
    def n_folds(self) -> int:
        """How many models the scores come from: 1 without folds."""
        return len(self.facts["split"]["cells"])


def contents_of(model: "SimsModel", history: "pa.Table") -> Contents:
    """Return the contents of a training that has just ended."""
    return Contents(
        facts=model.facts,
        classes=model.classes,
        settings=model.settings.model_dump(),
        calibration=model.calibration.to_dict(),
        has_linear=model.linear is not None,
        history=history.to_pylist(),
    )


def read_contents(folder: Path) -> Contents:
    """Return the contents of a model folder.

    Raises
    ------
    ModelRefused, UsageError
        See `jobs.train.folder.stored_model`.
    """
    import pyarrow.parquet as pq

    described = stored_model(folder, LEARNER).description
    path = folder / HISTORY
    return Contents(
        facts=described["facts"],
        classes=described["classes"],
        settings=described["settings"],
        calibration=described["calibration"],
        has_linear=described["linear"] is not None,
        history=pq.read_table(path).to_pylist() if path.is_file() else (),
    )

"""The pieces of an evaluation: which there are, doing those that are missing, and the time that is left."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.neuprint.inputs import Inputs
from jobs.neuprint.spec import NeuprintSpec
from jobs.train.workers import PiecesProgress, results_of

if TYPE_CHECKING:
    from rich.console import Console

PIECES, SPLITS = "pieces", "split.parquet"
OF_PHI = ("phi", "phi_and_hand")

Payload = dict[str, Any]


def payloads(spec: NeuprintSpec, inputs: Inputs, out: Path) -> list[Payload]:
    """Return all pieces, split by split: each settings of the dynamics, then each baseline."""
    settings = {name: chosen.model_dump(mode="json") for name, chosen in inputs.settings.items()}
    if not set(spec.methods) & set(OF_PHI):
        settings = {}
    work: dict[str, Any] = settings | {name: None for name in spec.methods if name not in OF_PHI}
    control = list(settings)[-1] if settings else None  # those that see most
    return [
        {
            "place": str((out / PIECES / f"split-{number}-{name}.json").absolute()),
            "sources": inputs.sources,
            "label": spec.label,
            "mode": spec.mode,
            "splits": str((out / SPLITS).absolute()),
            "number": number,
            "seed": spec.seed,
            "methods": list(spec.methods),
            "name": name,
            "settings": chosen,
            "control": name == control,
        }
        for number in range(len(inputs.splits))
        for name, chosen in work.items()
    ]


def do_missing(wanted: Sequence[Payload], workers: int, console: "Console") -> None:
    """Do the pieces that are not kept yet, each kept when done.

    Parameters
    ----------
    workers : int
        0 works in this process; else on the Ray cluster that it is connected to.
    """
    missing = [payload for payload in wanted if not Path(payload["place"]).is_file()]
    progress = PiecesProgress([payload["name"] for payload in missing], max(workers, 1), console)
    seconds = results_of("jobs.neuprint.pieces:do_piece", missing, workers)
    for payload, each_s in zip(missing, seconds, strict=True):
        progress.done(payload["name"], f"split {payload['number']}, {payload['name']}", each_s)

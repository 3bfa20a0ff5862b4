"""The pieces of an evaluation: which there are, and doing those that are missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jobs.neuprint.inputs import Inputs
from jobs.neuprint.spec import NeuprintSpec
from jobs.train.pieces import PIECES, Piece, do_missing

if TYPE_CHECKING:
    from rich.console import Console

SPLITS = "split.parquet"
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
            "place": str((out / PIECES / f"split-{number}-{quote(name, safe='+ ')}.json").absolute()),
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


def do_all(wanted: Sequence[Payload], workers: int, console: "Console") -> None:
    """Do the pieces that are not kept yet; see `jobs.train.pieces.do_missing`."""
    pieces = [
        Piece(payload, payload["name"], f"split {payload['number']}, {payload['name']}") for payload in wanted
    ]
    do_missing("jobs.neuprint.pieces:do_piece", pieces, workers, console)

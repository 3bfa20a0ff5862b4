"""The folder of a job over populations: what it ends in."""

import json
from pathlib import Path
from typing import Any

from jobs.errors import UsageError

FINDINGS = "findings.json"
"""Written last of all; a folder with it is finished."""


def write_findings(out: str | Path, found: dict[str, Any]) -> None:
    """Write what a job has found, as plain JSON with at least name, kind, notes and versions.

    Raises
    ------
    ValueError
        For a number that JSON does not have: write None where there is no value.
    """
    from cluster.store import RunStore

    RunStore(out).write_text(FINDINGS, json.dumps(found, indent=1, allow_nan=False))


def read_findings(out: str | Path) -> dict[str, Any]:
    """Return what a job has found.

    Raises
    ------
    UsageError
        When it has not ended.
    """
    from cluster.store import RunStore

    text = RunStore(out).read_text(FINDINGS)
    if text is None:
        raise UsageError(
            f"{out}: expected a job that has ended, found one that has not. `neurofleet status {out}` says"
            " how far it is; the same `neurofleet run` as before goes on with it."
        )
    return dict(json.loads(text))

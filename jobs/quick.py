"""Quick runs (``--quick``): how they are marked in all that is written and shown of them."""

from pathlib import Path
from typing import Any

import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import JobSpec

QUICK_NOTE = (
    "Quick run: a first picture, from much smaller budgets than the job has. Its numbers are no results. For those, "
    "run the job without --quick, with another --out."
)


def is_quick(out: str | Path) -> bool:
    """Whether the run in a folder is a quick one."""
    job = yaml.safe_load(RunStore(out).read_text("job.yaml") or "")
    return isinstance(job, dict) and job.get("quick") is True


def quick_lines(out: str | Path) -> list[str]:
    """Return what stands above all that is shown of a quick run; nothing for others."""
    return [QUICK_NOTE] if is_quick(out) else []


def quick_notes(spec: JobSpec) -> list[str]:
    """Return what a quick job has less of than the job file says; nothing for others."""
    return [f"less than in the job file: {'; '.join(spec.reduced)}"] if spec.reduced else []


def quick_record(spec: JobSpec) -> dict[str, Any]:
    """Return what the provenance of a quick run says of it; nothing for others."""
    return {"quick": True, "reduced": list(spec.reduced)} if spec.quick else {}


def refuse_other_length(kept: JobSpec, spec: JobSpec, root: str) -> None:
    """Raise UsageError where a full run is to go on from a quick one, or a quick one from a full one."""
    if kept.quick and not spec.quick:
        raise UsageError(
            f"{root} holds a quick run (--quick), which a full run cannot go on from. Give another --out, or remove "
            "that folder; with --quick the quick run itself goes on."
        )
    if spec.quick and not kept.quick:
        raise UsageError(
            f"{root} holds a full run, which --quick cannot go on with. Leave --quick out to go on with it, or give "
            "another --out."
        )

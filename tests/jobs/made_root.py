"""A folder with runs of all kinds as their jobs leave them, made without the jobs."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from neurofleet.jobs.studies.findings import FINDINGS
from tests.jobs.made_run import write_run

CLASSES = {"a": "Pvalb", "b": "Sst"}
"""Class of each fitted cell, as the made predictions have it."""


def write_root(root: Path) -> Path:
    """Write two fits (one unfinished), two models, an evaluation, two jobs over populations, loose tables."""
    write_run(root / "fits" / "first", cells=("a", "b"))
    write_run(root / "fits" / "second", cells=("c",), finished=False)
    _write_models(root / "models")
    write_job(root / "evaluation", {"kind": "evaluate", "learner": "hippie", "name": "compared"})
    for name in ("x", "y"):
        write(
            root / "evaluation" / "predictions" / f"set={name}" / "part.parquet",
            {"unit_id": ["u1", "u2"], "method": ["head"] * 2, "predicted": ["PV", "SST"]},
        )
        write(
            root / "evaluation" / "embeddings" / f"set={name}" / "part.parquet",
            {"unit_id": ["u1", "u2"], "umap_0": [0.0, 1.0], "umap_1": [1.0, 0.0], "depth_um": [10.5, 11.5]},
        )
    write(root / "evaluation" / "scores.parquet", {"set": ["x", "y"], "method": ["head"] * 2, "n": [2, 2]})
    write_sample(root / "sample")
    write_job(root / "classes", {"kind": "analyse", "name": "classes"})
    columns = {"grouping": ["broad"] * 2, "cell": [*CLASSES], "class": [*CLASSES.values()]}
    write(root / "classes" / "classes.parquet", columns)
    write_findings(root / "classes", "classes", "analyse")
    write(root / "predictions.parquet", _predictions(), {b"neurofleet.predictions": b"{}"})
    write(root / "notes.parquet", {"mine": [1]})
    (root / "job.yaml").write_text("kind: fit\n")  # a job file, not a run
    return root


def _write_models(folder: Path) -> None:
    write_job(folder / "hippie", {"kind": "sweep", "learner": "hippie", "name": "made"})
    (folder / "hippie" / "model.json").write_text(json.dumps({"learner": "hippie"}))
    write(folder / "hippie" / "trials" / "trials.parquet", {"trial": ["trial-00000"], "seed": [1]})
    write(folder / "hippie" / "sweep" / "trial-00000" / "other.parquet", {"trial": ["no part of it"]})
    write(
        folder / "hippie" / "embeddings.parquet",
        {"unit_id": [7, 8], "class": ["PV", None], "umap_0": [0.5, 1.5], "umap_1": [0.5, 2.5]},
    )
    write(folder / "hippie" / "scores.parquet", {"method": ["head"], "accuracy": [0.75], "n": [100]})
    model = json.loads((Path(__file__).parents[1] / "old_runs" / "sims" / "model.json").read_text())
    facts = model["description"]["facts"]
    facts["scores"] = {"sims": facts["scores"]["sims"]}
    facts["scores"]["sims"] |= {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 1.0, "macro_f1": 0.85}
    facts["baselines"] = {"logistic": {"accuracy": 0.7, "macro_f1": 0.6, "notes": []}}
    write_job(folder / "sims", {"kind": "train", "learner": "sims", "name": "made"})
    (folder / "sims" / "model.json").write_text(json.dumps({"learner": "sims", "description": {"facts": facts}}))


def write_sample(folder: Path, finished: bool = True) -> None:
    """Write the folder of a job over populations."""
    write_job(folder, {"kind": "sample", "name": "drawn"})
    for block in (0, 1):
        write(
            folder / "draws" / "cell=7" / f"block-{block:06d}.parquet",
            {"draw": [2 * block, 2 * block + 1], "accepted": [True, False], "feature.AP_width": [0.5, 0.7]},
        )
    write(folder / "acceptance.parquet", {"cell": ["7"], "within": [2]})
    if finished:
        write_findings(folder, "drawn", "sample")


def write_findings(folder: Path, name: str, kind: str) -> None:
    """Write what makes a study a finished one."""
    (folder / FINDINGS).write_text(json.dumps({"name": name, "kind": kind, "notes": [], "versions": {}}))


def write_job(folder: Path, job: dict[str, Any]) -> None:
    """Write what every run folder has."""
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    (folder / "provenance.json").write_text("{}")


def write(path: Path, columns: dict[str, list], metadata: dict[bytes, bytes] | None = None) -> None:
    """Write a table as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


def _predictions() -> dict[str, list]:
    return {
        "cell_id": [*CLASSES],
        "label": [*CLASSES.values()],
        "unknown": [False] * 2,
        "pred_0": [*CLASSES.values()],
        "prob_0": [0.9, 0.8],
    }

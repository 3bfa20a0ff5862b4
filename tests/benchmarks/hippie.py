"""What HIPPIE reaches on real units beside simple methods, and what shuffled labels reach.

``python -m tests.benchmarks.hippie [--repeats N] [--sets juxta,...] [--out FOLDER]`` runs an evaluation job
on each set and prints one JSON line: balanced accuracies of the fine-tuned network (``head_ba``), of what the
product picks by inner validation (``best_ba``), of classical classifiers, raw nearest neighbours, an
untrained network, and the larger of the two shuffled-label controls. CellExplorer and DANDI are split by
animal. The network of a set is pretrained on the two others. Over random folds the scores of one repeat of
juxta spread by 0.015.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "hippie"

SETS: dict[str, dict[str, Any]] = {
    "juxta": {
        "units": "juxta_s1.npz",
        "layout": {"keep": {"in_celltype_225": [True]}},
        "label": "cell_type_layer",
    },
    "cellexplorer": {
        "units": "cellexplorer.npz",
        "layout": {
            "waveform_rate_hz": 33000,
            "isi": "isi_log10",
            "isi_scale": "log10",
            "isi_log10_range_s": [-3, 1],
            "isi_values": "density",
            "acg": "acg_narrow",
            "acg_bin_ms": 0.5,
        },
        "label": "cell_type",
        "classes": ["PV", "SST", "Axo_", "VIP"],
        "group": "animal",
    },
    "dandi": {
        "units": "dandi_000041_cell_type.npz",
        "layout": {"waveform_rate_hz": 20000, "acg_bin_ms": 1, "technology": "silicon"},
        "label": "cell_type",
        "group": "subject",
    },
}
METHODS = ["raw_knn", "classical", "untrained", "head", "best"]


def main() -> None:
    """Run the evaluation and print its line."""
    from neurofleet.jobs.run_job import run_job

    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", help="Keep the evaluation, and go on with it.")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(given.out or scratch) / "evaluation"
        out.parent.mkdir(parents=True, exist_ok=True)
        job = out.parent / "hippie.yaml"
        folder = DATA
        sets, pool = [], []
        for name, one in SETS.items():
            one = one | {"units": str(folder / one["units"])}
            if name in given.sets.split(","):
                sets.append({"name": name, **one})
            else:
                pool.append({key: one[key] for key in ("units", "layout")})
        content = {"kind": "evaluate", "learner": "hippie", "sets": sets, "repeats": given.repeats}
        content["pool"] = pool
        job.write_text(yaml.safe_dump(content | {"methods": METHODS, "workers": given.workers}))
        run_job(job, str(out))
        found = json.loads((out / "evaluation.json").read_text())
    line: dict[str, Any] = {}
    for one in found["sets"]:
        scores = {row["method"]: row["balanced_accuracy"] for row in one["comparison"]["methods"]}
        line[one["set"]] = {
            "head_ba": scores["head"],
            "best_ba": scores["best"],
            "classical_ba": scores["classical"],
            "knn_ba": scores["raw_knn"],
            "untrained_ba": scores["untrained"],
            "shuffled_ba": max(control["balanced_accuracy"] for control in one["shuffled"].values()),
            "controls_valid": all(control["valid"] for control in one["shuffled"].values())
            and one["permuted"]["valid"],
        }
    print(json.dumps(line | {"seconds": round(time.monotonic() - started)}))


if __name__ == "__main__":
    main()

"""What an analysis of 9,040 published models takes, and how many models are drawn and scored.

``python -m tests.benchmarks.populations`` prints one JSON line, after some minutes on 2 cores. The models of
the analysis are the 113 published cells x 40, twice, the second time with 2 % of noise. What is drawn:
`tests.benchmarks.sampled_models`.

``analysis_s``
    The whole job in a fresh process of the command line's: reading, dispersion within and between four broad
    classes, all tests, forests with their controls, the map with its clusters, tables and report.
``analysis_cpu_s``
    Its processor seconds.
``grid_s``, ``grid_search_s``, ``grid_equal``
    Choosing the number of trees once: forests grown step by step, against scikit-learn's ``GridSearchCV`` in
    the same number of threads; whether all scores are the same.
``umap_all_s``
    A peer: UMAP alone, fitted on all models.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from tests.benchmarks.sampled_models import sampling

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "neuron"
NOISE = 0.02
DRAWS = 16
CLASSES = {
    "Pvalb": {"cre_line": ["Pvalb-IRES-Cre"]},
    "Sst": {"cre_line": ["Sst-IRES-Cre"]},
    "Htr3a": {"cre_line": ["Htr3a-Cre_NO152"], "dendrite_type": ["aspiny"]},
    "Pyr": {"broad": ["Pyr"]},
}
RUN = (
    "import sys; from pathlib import Path; p = Path(sys.argv[1]);"
    "from neurofleet.jobs.studies.study import run_study;"
    "from neurofleet.jobs.studies.analysis_inputs import AnalyseSpec;"
    "import yaml; spec = AnalyseSpec.model_validate(yaml.safe_load(p.read_text()));"
    "run_study(spec, p.parent, sys.argv[2], None, int(sys.argv[3]))"
)


def write_input(folder: Path) -> Path:
    """Write models, cells and the job, and return its place."""
    models = pd.read_parquet(DATA / "allactive_hof_params_dev.parquet")
    cells = pd.read_csv(DATA / "allactive_cells_dev.csv")
    inhibitory = cells["cre_line"].str.contains("Htr3a")
    cells["broad"] = np.where((cells["dendrite_type"] == "spiny") & ~inhibitory, "Pyr", "")
    again = models.assign(cell_id=models["cell_id"].astype("int64") + 10**10)
    names = [name for name in models.columns if name not in ("cell_id", "hof_index")]
    noise = np.random.default_rng(0).normal(1.0, NOISE, size=(len(again), len(names)))
    again[names] = again[names].to_numpy() * noise
    models["cell_id"] = models["cell_id"].astype("int64")
    pd.concat([models, again], ignore_index=True).to_parquet(folder / "models.parquet")
    twice = cells.assign(cell_id=cells["cell_id"].astype("int64") + 10**10)
    pd.concat([cells, twice], ignore_index=True).to_csv(folder / "cells.csv", index=False)
    job = {
        "kind": "analyse",
        "name": "benchmark",
        "populations": ["models.parquet"],
        "cells": "cells.csv",
        "groupings": {"broad": {"classes": CLASSES}},
    }
    place = folder / "job.yaml"
    place.write_text(yaml.safe_dump(job))
    return place


def analysis(folder: Path, cpus: int) -> dict[str, float]:
    job = write_input(folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", RUN, str(job), str(folder / "out"), str(cpus)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    spent = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"analysis_s": round(spent, 1), "analysis_cpu_s": round(cpu_s, 1)}


def peers(folder: Path, cpus: int) -> dict[str, float | bool]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.preprocessing import StandardScaler
    from umap import UMAP

    from neurofleet.neurosim.studies import random_forest
    from neurofleet.neurosim.studies.model_table import read_models, shared_parameters

    models = read_models(folder / "models.parquet")
    models = models.columns(shared_parameters(models)[0])
    some = models.best(random_forest.AUGMENTED)
    group = np.unique(some.cells, return_inverse=True)[1]
    labels = np.array(["one", "other", "third"])[group % 3]
    started = time.perf_counter()
    ours = random_forest.grid_scores(some.values, labels, group, 1, cpus)
    grid_s = time.perf_counter() - started
    search = GridSearchCV(
        RandomForestClassifier(random_state=1, n_jobs=cpus),
        {"n_estimators": list(random_forest.TREES)},
        scoring="f1_macro",
        cv=StratifiedGroupKFold(random_forest.FOLDS, shuffle=True, random_state=1),
        refit=False,
    )
    started = time.perf_counter()
    search.fit(some.values, labels, groups=group)
    grid_search_s = time.perf_counter() - started
    values = StandardScaler().fit_transform(models.values)
    started = time.perf_counter()
    UMAP(n_neighbors=10, random_state=1, n_jobs=1).fit(values)
    return {
        "grid_s": round(grid_s, 1),
        "grid_search_s": round(grid_search_s, 1),
        "grid_equal": bool(np.allclose(ours, search.cv_results_["mean_test_score"], atol=1e-12)),
        "umap_all_s": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    cpus = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {"models": 9040, "cores": cpus} | analysis(folder, cpus) | peers(folder, cpus)
    found |= sampling(DRAWS)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

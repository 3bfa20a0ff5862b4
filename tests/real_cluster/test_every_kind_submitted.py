"""A job of every kind, and every learner, is submitted to a cluster once, runs there, and is found again."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.job_file import KINDS
from neurofleet.learners.model_folder import read_model
from neurofleet.neurosim.cells.cell_model import Conditions
from neurofleet.neurosim.cells.demo_cell import JUNCTION_POTENTIAL_MV, KNOWN_PARAMETERS, demo_model
from neurofleet.neurosim.exchange.allen_fit import write_fit
from tests.jobs.local_head import Laptop, local_head
from tests.jobs.studies.test_analysis import JOB as ANALYSIS
from tests.jobs.studies.test_analysis import write_tables
from tests.jobs.test_fit import EVOLUTION
from tests.jobs.test_hippie import SMALL as HIPPIE
from tests.jobs.test_neuprint import SMALL as NEUPRINT
from tests.jobs.test_neuprint import write_animal
from tests.learners.hippie.small_units import write_units
from tests.real_cluster.small_fit import JOB as FIT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CELL = FIT["cells"][0]
RUN = {"run": "../out/fit", "best": 1}
SPIKING = {"amplitude_nA": 0.4, "start_ms": 20, "stop_ms": 80}
STEPS = {"amplitudes_nA": [0.4], "delay_ms": 200, "duration_ms": 60}
FEATURES = ["Spikecount", "voltage_base"]
PUBLISHED = {"fits": [{"id": "demo", "fit": "fit.json", "morphology": "cell.swc"}]}
KNOWN = {name: value for name, value in KNOWN_PARAMETERS.items() if name != "gbar_NaTa_t.axon"}
GRID = {"method": "grid", "repeats": 1}
SIMS = {"learner": "sims", "reference": "../data/cells-*.csv", "labels": "labels.csv", "label": "type", "epochs": 1}
SIMS |= {"members": 1, "baselines": ["majority"], "loggers": [], "n_d": 8, "n_a": 4}
UNITS = {"units": "units.npz", "label": "cell_type", "group": "animal"}
TWO_FOLDS = {"learner": "hippie", "folds": 2, "methods": ["raw_knn", "head"], **HIPPIE, "epochs": 2}
ANIMALS = {"learner": "neuprint", "recordings": "../data/s*.npz", "label": "class", "loggers": []}
ANIMALS |= {**NEUPRINT, "methods": ["phi", "random"]}

FEW = {"sweeps": 1, "most_evaluations": 4000}

JOBS: dict[tuple[str, str], dict[str, Any]] = {
    ("fit", ""): {**FIT, "evolution": EVOLUTION},
    ("validate", ""): {"models": RUN, "sweeps_each": 1},
    ("sensitivity", ""): {
        "models": RUN,
        "parameters": ["gbar_NaTa_t.axon", "gbar_Kv3_1.axon"],
        "features": FEATURES,
        "step": SPIKING,
    },
    ("synapse", ""): {"models": RUN, "distances_um": [40]},
    ("compare", ""): {"models": {"ours": RUN, "published": PUBLISHED}, "steps": STEPS, "features": FEATURES},
    ("sample", ""): {"cells": [CELL], "recipe": "demo", "draws": 8, "fixed": KNOWN, "within_z": 2.0},
    ("posterior", ""): {"fit": RUN["run"], "largest_mean_z": None, "particles": 40, **FEW},
    ("analyse", ""): ANALYSIS,
    ("train", "sims"): SIMS,
    ("sweep", "sims"): {**SIMS, "search": {"learning_rate": [1e-3, 0.02]}, "trials": GRID},
    ("train", "hippie"): {**TWO_FOLDS, **UNITS},
    ("sweep", "hippie"): {**TWO_FOLDS, **UNITS, "search": {"latent": [2, 4]}, "trials": GRID},
    ("evaluate", "hippie"): {**TWO_FOLDS, "sets": [{"name": "one", **UNITS}], "repeats": 1},
    ("train", "neuprint"): ANIMALS,
    ("sweep", "neuprint"): {**ANIMALS, "search": {"phi": [2, 3]}, "trials": GRID},
    ("evaluate", "neuprint"): {**ANIMALS, "seeds": 1},
}


def test_all_kinds_and_learners_are_here():
    known = {(kind, "") for kind, place in KINDS.items() if isinstance(place, str)}
    known |= {(kind, learner) for kind, place in KINDS.items() if not isinstance(place, str) for learner in place}
    assert set(JOBS) == known


@pytest.fixture(scope="module")
def laptop(demo_recordings, tmp_path_factory) -> Iterator[Laptop]:
    """With a folder of jobs beside one of data, and a cluster of its own."""
    folder = tmp_path_factory.mktemp("laptop")
    jobs, data = folder / "jobs", folder / "data"
    data.mkdir()
    shutil.copytree(demo_recordings, jobs)
    write_tables(jobs)
    write_units(jobs / "units.npz")
    for number in range(3):
        write_animal(data, number)
    write_cells(data, jobs / "labels.csv")
    model = demo_model(jobs / "cell.swc")
    every = ("soma", "axon", "dend", "apic")
    parameters = KNOWN_PARAMETERS | dict(model.fixed)
    write_fit(jobs / "fit.json", parameters, model.mechanisms, Conditions(), JUNCTION_POTENTIAL_MV, sections=every)
    token = folder / "token"
    with local_head(token) as address:
        yield Laptop(address, folder, RAY_AUTH_TOKEN_PATH=str(token))


def write_cells(data: Path, labels: Path) -> None:
    """Write two files of cells, and the labels of both."""
    rng = np.random.default_rng(0)
    lines = ["cell,type"]
    for part in ("one", "two"):
        counts = rng.poisson(np.repeat([[1, 9], [9, 1]], 24, axis=0).repeat(6, axis=1))
        names = [f"{part}{number}" for number in range(48)]
        genes = [f"g{number}" for number in range(12)]
        pd.DataFrame(counts, index=names, columns=genes).to_csv(data / f"cells-{part}.csv", index_label="cell")
        lines += [f"{name},{'ab'[number // 24]}" for number, name in enumerate(names)]
    labels.write_text("\n".join([*lines, ""]))


def submitted(laptop: Laptop, kind: str, learner: str) -> Path:
    """Submit a job, wait for its end, and return its results, which are found by its name."""
    name = "-".join(filter(None, (kind, learner)))
    out = laptop.folder / "out" / name
    job = {**JOBS[kind, learner], "kind": kind, "name": name}
    (laptop.folder / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(job))
    sent = laptop("submit", f"jobs/{name}.yaml", "--out", out, "--follow", timeout_s=500)
    assert sent.returncode == 0, f"{sent.stdout[-6000:]}\n{sent.stderr[-3000:]}"
    assert f"{name}: starting" in sent.stdout
    status = json.loads(laptop("status", name, "--json").stdout)
    assert (status["id"], status["state"], status["out"]) == (f"{name}-a1", "succeeded", str(out))
    assert name in {job["name"] for job in json.loads(laptop("list", "--json").stdout)}
    shown = laptop("results", out)
    assert shown.returncode == 0, shown.stderr
    assert (out / "report.html").is_file() or kind == "fit"
    return out


@pytest.fixture(scope="module")
def fitted(laptop) -> Path:
    return submitted(laptop, "fit", "")


def test_a_fit(fitted):
    assert len(RunStore(fitted).read_hall_of_fame("demo")) == EVOLUTION["hall_of_fame"] * 2


@pytest.mark.parametrize("kind", [kind for kind, learner in JOBS if not learner and kind != "fit"])
def test_a_study(laptop, fitted, kind):
    findings = json.loads((submitted(laptop, kind, "") / "findings.json").read_text())
    assert findings["kind"] == kind


@pytest.mark.parametrize(("kind", "learner"), [job for job in JOBS if job[1]])
def test_a_job_of_a_learner(laptop, kind, learner):
    out = submitted(laptop, kind, learner)
    if kind == "evaluate":
        assert len(pd.read_parquet(out / "scores.parquet"))
    else:
        assert read_model(out).learner == learner

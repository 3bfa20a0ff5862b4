"""What lies in the folder that a job is started in takes no module's place, in this process and in Ray's workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TAKEN = ("random", "numpy", "pandas", "jobs", "learners", "neurosim", "statistics", "optuna")

# The user's own module has a name that a part of neurofleet has.
OWN_ENGINE = """
import random
import numpy

class Engine:
    def evaluate(self, batch, budget):
        for individual in batch:
            yield [float(individual) + 1, random.__file__, numpy.__file__, __file__]

def build(payload):
    return Engine()
"""


def where_modules_are(payload=None):
    import random

    import numpy

    import neurofleet.cluster
    import neurofleet.jobs

    return [module.__file__ for module in (random, numpy, neurofleet.cluster, neurofleet.jobs)]


def use_all_workers():
    """Use the cluster for all that it does: a pool, shards, a training and a sweep."""
    from neurofleet.cluster.pool.outcome import EngineSpec, EvaluationTask
    from neurofleet.cluster.pool.pool import Pool
    from neurofleet.cluster.ray.session import connect
    from neurofleet.cluster.ray.shards import map_shards
    from neurofleet.cluster.sweeps.parameter_sweep import ParameterSweep
    from neurofleet.cluster.sweeps.ray_tune import sweep
    from neurofleet.cluster.training.lightning_training import Training
    from neurofleet.cluster.training.trainer import train

    with connect(cpus=1):
        with Pool() as pool:
            pool.submit(EvaluationTask(0, EngineSpec("cluster:build", None, "own"), 41.0, 60.0))
            ((_, outcome),) = pool.completed(120.0)
        assert outcome.ok, outcome
        (shard,) = map_shards("tests.cluster.test_working_folder:where_modules_are", [{}])
        toy = Training("tests.cluster.toy_training:build")
        trained = train(toy, "training", max_epochs=1, workers=1, accelerator="cpu")
        plan = ParameterSweep("tests.cluster.toy_trials:valley", "loss", "min", search={"x": 0.1})
        swept = sweep(plan, Path("sweep").absolute())
    print(json.dumps({"value": outcome.value, "shard": shard, "epochs": trained.epochs, "trials": len(swept.rows)}))


@pytest.mark.slow
def test_files_in_the_working_folder_take_no_modules_place_on_an_embedded_ray(tmp_path):
    folder, installed = tmp_path / "job", tmp_path / "installed"
    folder.mkdir()
    for name in TAKEN:
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    (folder / "cluster.py").write_text(OWN_ENGINE)
    installed.mkdir()
    for name in ("neurofleet", "tests"):  # and not `cluster`, which lies beside them in the repository
        (installed / name).symlink_to(REPOSITORY / name)
    code = "from tests.cluster.test_working_folder import use_all_workers; use_all_workers()"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    value, *files, engine_file = told["value"]
    assert value == 42.0
    assert engine_file == str(folder / "cluster.py")
    assert not [file for file in (*files, *told["shard"]) if Path(file).parent == folder]
    assert (told["epochs"], told["trials"]) == (1, 1)

"""The loggers of metrics: what a run adds to, what is left out after a failure, and that nothing else is written."""

import getpass
import logging
import os
import shutil
import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest

from neurofleet.cluster import metric_loggers
from neurofleet.cluster.metric_loggers import LoggedRun, missing_packages, open_loggers
from neurofleet.errors import ClusterError

BEST = {"best": 12.5, "timeouts": 0.0}


def run(folder, **more):
    return LoggedRun(folder / "loggers", folder / "loggers", "rat-1", "rat", **more)


def test_a_run_without_history_adds_to_what_is_there(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step in (0, 1):
        with open_loggers(["csv", "tensorboard"], run(tmp_path)) as log:
            log(BEST | ({"diversity": 0.25} if step else {}), step, "cell-1/active/seed-1")
        if step == 0:
            with (tmp_path / "loggers/metrics.csv").open("a") as file:
                file.write("cell-1/active/seed-1,1,12")  # a driver was killed while it wrote
    table = pd.read_csv(tmp_path / "loggers/metrics.csv")
    assert table.columns.tolist() == ["series", "step", "best", "timeouts", "diversity"]
    assert table["step"].tolist() == [0, 1]
    assert table["diversity"].isna().tolist() == [True, False]
    events = EventAccumulator(str(tmp_path / "loggers/tensorboard")).Reload()
    assert [event.step for event in events.Scalars("cell-1/active/seed-1/best")] == [0, 1]


def test_a_logger_that_fails_is_told_without_its_password_and_the_others_go_on(tmp_path, monkeypatch, caplog):
    class Refusing:
        def __init__(self, run, anew):
            pass

        def log(self, metrics, step, series):
            raise OSError("http://anna:secret@host/api does not answer")

    monkeypatch.setitem(metric_loggers._LOGGERS, "mlflow", Refusing)
    monkeypatch.setattr(metric_loggers, "missing_packages", lambda names: [])
    with caplog.at_level(logging.WARNING), open_loggers(["mlflow", "csv"], run(tmp_path)) as log:
        for step in (1, 2):
            log(BEST, step, "")
    assert [record.getMessage() for record in caplog.records] == [
        "the logger mlflow failed and gets no more metrics of this run: OSError: http://host/api does not answer"
    ]
    assert len(pd.read_csv(tmp_path / "loggers/metrics.csv")) == 2


def test_loggers_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, told in (("wandb", "pip install wandb"), ("comet", "There are: tensorboard, csv, mlflow, wandb")):
        with pytest.raises(ClusterError, match=told), open_loggers([name], run(tmp_path)):
            pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert missing_packages(["mlflow", "csv"]) == ["mlflow-skinny"]  # a server has the database


def test_the_id_of_a_run_is_drawn_once_for_the_folder_that_is_there(tmp_path, monkeypatch):
    ids = []
    for place in ("a", "a", "b", "b"):
        (tmp_path / place).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        with open_loggers(["csv"], (rat := run(Path("rat")))):
            ids.append(rat.id)
    shutil.rmtree(tmp_path / "b" / "rat")
    with open_loggers(["csv"], rat):
        ids.append(rat.id)
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert len(set(ids)) == 3


@pytest.fixture
def wandb_runs(monkeypatch):
    """A package in place of W&B's: the runs that are begun with it."""
    runs = []

    class Run:
        def __init__(self, dir, settings, **begun):
            self.begun, self.settings, self.logged = begun, vars(settings), []
            (dir / "wandb" / f"{settings.mode}-run-{len(runs)}-{begun['id']}").mkdir(parents=True)
            runs.append(self)

        def log(self, metrics, step=None):
            self.logged.append(metrics.get("cell/step", step))

        def define_metric(self, name, step_metric):
            pass

        def finish(self, exit_code):
            pass

    module = ModuleType("wandb")
    module.init, module.Settings = Run, SimpleNamespace
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(metric_loggers, "missing_packages", lambda names: [])
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")  # is put back afterwards
        monkeypatch.delenv(name)
    return runs


def test_wandb_is_offline_unless_it_is_asked_for_and_is_told_names_and_numbers_only(wandb_runs, tmp_path, monkeypatch):
    for mode in ("offline", "online"):
        if mode == "online":
            monkeypatch.setenv("WANDB_MODE", mode)
        with open_loggers(["wandb"], run(tmp_path, parameters={"n_d": 16})):
            pass
    for begun, mode in zip(wandb_runs, ("offline", "online"), strict=True):
        assert begun.settings == {
            "mode": mode,
            "console": "off",
            "silent": True,
            "host": "",
            **dict.fromkeys(("disable_code", "disable_git", "x_disable_meta", "x_disable_stats"), True),
            "x_disable_machine_info": True,
            **dict.fromkeys(("save_code", "x_save_requirements"), False),
        }
        told = {name: value for name, value in begun.begun.items() if name not in ("id", "resume", "reinit")}
        assert told == {"project": "neurofleet", "group": "rat", "name": "rat-1", "config": {"n_d": 16}}
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert [begun.begun["resume"] for begun in wandb_runs] == [None, "allow"]


def test_what_wandb_is_given_when_a_run_goes_on(wandb_runs, tmp_path, monkeypatch):
    def go_on(step, series="", **history):
        with open_loggers(["wandb"], run(tmp_path), **history) as log:
            log(BEST, step, series)

    history = [(BEST, 1), (BEST, 2)]
    go_on(1, history=[])
    go_on(3, history=history)
    first, again = wandb_runs
    assert again.begun["id"] == first.begun["id"]  # synchronised, it takes the place of the first
    assert again.logged == [1, 2, 3]
    assert [path.name[:13] for path in (tmp_path / "loggers/wandb").iterdir()] == ["offline-run-1"]
    for generation in (0, 1):
        go_on(generation, "cell")
    assert len({begun.begun["id"] for begun in wandb_runs}) == 3  # without a history none takes another's place
    assert [begun.logged for begun in wandb_runs[2:]] == [[0], [1]]
    monkeypatch.setenv("WANDB_MODE", "online")
    go_on(3, history=history)
    assert wandb_runs[-1].begun["id"] == first.begun["id"]
    assert wandb_runs[-1].logged == [3]  # the server has the others


def test_mlflow_has_its_database_here_unless_a_server_is_named_and_one_run(tmp_path, monkeypatch):
    opened, experiments, begun, logged = [], {}, {}, []

    class Client:
        def __init__(self, uri):
            opened.append(uri)

        def get_experiment_by_name(self, name):
            return experiments.get(name)

        def create_experiment(self, name, artifact_location):
            experiments[name] = SimpleNamespace(experiment_id=name, artifacts=artifact_location)
            return name

        def search_runs(self, experiments, filter, max_results):
            found = [id for id, tags in begun.items() if filter == f"tags.neurofleet_run = '{tags['neurofleet_run']}'"]
            return [SimpleNamespace(info=SimpleNamespace(run_id=id)) for id in found]

        def create_run(self, experiment, run_name, tags):
            begun[id := f"{experiment}/{run_name}/{len(begun)}"] = tags
            return SimpleNamespace(info=SimpleNamespace(run_id=id))

        def update_run(self, id, status):
            pass

        def log_batch(self, id, metrics=(), params=()):
            logged.append((id, [step for *_, step in metrics], params))

        def set_terminated(self, id, status):
            pass

    modules = {name: ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.tracking")}
    modules["mlflow.entities"].Metric = modules["mlflow.entities"].Param = lambda *told: told
    modules["mlflow.tracking"].MlflowClient = Client
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(metric_loggers, "missing_packages", lambda names: [])
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for step in (0, 1):
        with open_loggers(["mlflow"], run(tmp_path, parameters={"n_d": 16})) as log:
            log({"best": 1.0}, step, "")
    shared = tmp_path / "loggers"
    assert opened == [f"sqlite:///{shared / 'mlflow.db'}"] * 2
    assert experiments["rat"].artifacts == (shared / "mlruns").as_uri()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert logged == [("rat/rat-1/0", [], [("n_d", "16")]), ("rat/rat-1/0", [0], ()), ("rat/rat-1/0", [1], ())]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    experiments.clear()
    with open_loggers(["mlflow"], run(tmp_path)):
        pass
    assert opened[-1] == "http://127.0.0.1:5000"
    assert experiments["rat"].artifacts is None


def test_mlflow_has_one_run_that_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for step in (0, 1):
        with open_loggers(["mlflow"], run(tmp_path, parameters={"n_d": 16})) as log:
            log(BEST, step, "cell-1/active/seed-1")
    client = MlflowClient(f"sqlite:///{tmp_path / 'loggers/mlflow.db'}")
    (logged,) = client.search_runs([client.get_experiment_by_name("rat").experiment_id])
    assert (logged.info.run_name, logged.info.status, logged.data.params) == ("rat-1", "FINISHED", {"n_d": "16"})
    assert [m.step for m in client.get_metric_history(logged.info.run_id, "cell-1/active/seed-1/best")] == [0, 1]
    assert not list((tmp_path / "work").iterdir())


def test_wandb_is_offline_and_is_told_nothing_of_the_machine(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("SECRET_TOKEN", "0a1b2c3d4e5f")
    with open_loggers(["wandb"], run(tmp_path, parameters={"n_d": 16})) as log:
        log(BEST, 0, "cell-1/active/seed-1")
    (stored,) = (tmp_path / "loggers/wandb").glob("offline-run-*/*.wandb")
    content = stored.read_bytes()
    assert b"cell-1/active/seed-1/best" in content
    for private in (str(tmp_path), socket.gethostname(), getpass.getuser(), "0a1b2c3d4e5f"):
        assert private.encode() not in content, private

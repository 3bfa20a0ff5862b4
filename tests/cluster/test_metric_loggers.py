"""The loggers of metrics: what a run adds to, what is left out after a failure, and that nothing else is written."""

import getpass
import logging
import socket

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


def test_mlflow_has_one_run_that_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (0, 1):
        with open_loggers(["mlflow"], run(tmp_path, parameters={"n_d": 16})) as log:
            log(BEST, step, "cell-1/active/seed-1")
    client = MlflowClient(f"sqlite:///{tmp_path / 'loggers/mlflow.db'}")
    (logged,) = client.search_runs([client.get_experiment_by_name("rat").experiment_id])
    assert (logged.info.run_name, logged.info.status, logged.data.params) == ("rat-1", "FINISHED", {"n_d": "16"})
    assert [m.step for m in client.get_metric_history(logged.info.run_id, "cell-1/active/seed-1/best")] == [0, 1]


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

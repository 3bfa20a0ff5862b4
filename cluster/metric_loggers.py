"""Where metrics are logged beside a run's own tables: TensorBoard, CSV, MLflow, Weights & Biases.

Loggers are given names, numbers and settings, and nothing else: no paths, host names, environment or code. Nothing
leaves the machine unless the environment says so, by ``MLFLOW_TRACKING_URI`` or ``WANDB_MODE=online``.
"""

from __future__ import annotations

import csv
import fcntl
import importlib.util
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from neurofleet.errors import ClusterError

LoggerName = Literal["tensorboard", "csv", "mlflow", "wandb"]
Ending = Literal["finished", "failed", "killed"]

TENSORBOARD, CSV_FILE, MLFLOW_FILE = "tensorboard", "metrics.csv", "mlflow.db"
PROJECT = "neurofleet"
ID_FILE = ".logger-id"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedRun:
    """What is logged.

    Attributes
    ----------
    folder : Path
        Where TensorBoard's events, the CSV file and what W&B has not sent yet are.
    shared : Path
        Where MLflow's database is: the runs of one job are compared in it.
    name : str
    job : str
        The job that the run belongs to.
    parameters : mapping
        Settings.
    """

    folder: Path
    shared: Path
    name: str
    job: str = PROJECT
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Drawn when the run begins, and kept in its folder: the same when the run goes on."""
        kept = self.folder / ID_FILE
        if not kept.is_file():
            new = kept.with_suffix(".new")
            new.write_text(_new_id())
            new.replace(kept)
        return kept.read_text()


def _new_id() -> str:
    return uuid.uuid4().hex[:16]


class MetricLogger(Protocol):
    """One of the loggers."""

    def log(self, metrics: Mapping[str, float], step: int, series: str) -> None:
        """Store the metrics of an epoch or a generation; a run of several searches has a series for each."""

    def close(self, how: Ending) -> None:
        """The run has ended, or is interrupted."""


LogMetrics = Callable[[Mapping[str, float], int, str], None]
"""Is given metrics, step and series."""


@contextmanager
def open_loggers(
    names: Sequence[str], run: LoggedRun, history: Sequence[tuple[Mapping[str, float], int]] | None = None
) -> Iterator[LogMetrics]:
    """Yield a function that gives metrics to all loggers.

    A logger that fails later is told in the log and left out from then on: what it logs is in the run's tables, too.

    Parameters
    ----------
    names : sequence of {'tensorboard', 'csv', 'mlflow', 'wandb'}
    run : LoggedRun
    history : sequence of (metrics, step), optional
        All that an earlier part of the run has logged. Events, CSV and an offline run of W&B are then written anew from
        it, so that each step is in them once; without it, the run adds to the first two, and W&B has another run.

    Raises
    ------
    ClusterError
        If one is unknown, its package is not installed, or it cannot be opened.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    opened = {name: _opened(name, run, history is not None) for name in names}

    def log(metrics: Mapping[str, float], step: int, series: str = "", to: Iterable[str] = tuple(opened)) -> None:
        for name in [name for name in to if name in opened]:
            _try(name, lambda each: each.log(metrics, step, series), opened)

    written_anew = [TENSORBOARD, "csv", *([] if _wandb_mode() == "online" else ["wandb"])]
    for metrics, step in history or ():
        log(metrics, step, to=written_anew)

    how: Ending = "killed"
    try:
        yield log
        how = "finished"
    except Exception:
        how = "failed"
        raise
    finally:
        for name in list(opened):
            _try(name, lambda to: to.close(how), opened)


def _try(name: str, act: Callable[[MetricLogger], None], opened: dict[str, MetricLogger]) -> None:
    try:
        act(opened[name])
    except Exception as error:  # noqa: BLE001  libraries and servers fail in ways of their own, and the run goes on
        del opened[name]
        logger.warning("the logger %s failed and gets no more metrics of this run: %s", name, _told(error))


def _opened(name: str, run: LoggedRun, anew: bool) -> MetricLogger:
    if name not in _LOGGERS:
        raise ClusterError(f"{name!r} is not a logger that is known here. There are: {', '.join(_LOGGERS)}.")
    if missing := missing_packages([name]):
        raise ClusterError(f"The logger {name} needs a package that is not installed: pip install {' '.join(missing)}.")
    try:
        return _LOGGERS[name](run, anew)
    except Exception as error:
        raise ClusterError(
            f"The logger {name} cannot be opened: {_told(error)}. Mend that, or leave it out of `loggers:`."
        ) from error


def _told(error: Exception) -> str:
    """Return what an error says in one line, without a password in an address."""
    first = (str(error).splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: " + re.sub(r"(://)[^/@\s]+@", r"\1", first)


def missing_packages(names: Iterable[str]) -> list[str]:
    """Return what is to be installed for some of the loggers, as pip calls it."""
    needed = dict.fromkeys(
        package
        for name in names
        for package in (*_PACKAGES[name], *(_DATABASE if name == "mlflow" and not _mlflow_server() else ()))
    )
    return [pip for imported, pip in needed if importlib.util.find_spec(imported) is None]


_PACKAGES: dict[str, tuple[tuple[str, str], ...]] = {
    TENSORBOARD: (("tensorboardX", "tensorboardX"),),
    "csv": (),
    "mlflow": (("mlflow", "mlflow-skinny"),),
    "wandb": (("wandb", "wandb"),),
}
"""Logger -> what is imported, and what pip calls it. `mlflow` itself wants an old pyarrow: pip then installs a version
of 2022."""

_DATABASE = (("sqlalchemy", "sqlalchemy"), ("alembic", "alembic"))
"""What MLflow needs for a database of its own."""


class _TensorBoard:
    def __init__(self, run: LoggedRun, anew: bool) -> None:
        from tensorboardX import SummaryWriter  # needs no torch

        folder = run.folder / TENSORBOARD
        for old in folder.glob("events.out.tfevents.*") if anew else ():
            old.unlink()
        self._writer = SummaryWriter(str(folder), filename_suffix=f".{time.time_ns()}")  # never that of another

    def log(self, metrics: Mapping[str, float], step: int, series: str) -> None:
        for name, value in _named(metrics, series).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, how: Ending) -> None:
        self._writer.close()


class _Csv:
    def __init__(self, run: LoggedRun, anew: bool) -> None:
        self._path = run.folder / CSV_FILE
        self._columns: list[str] = []
        if anew:
            self._path.unlink(missing_ok=True)
        elif self._path.is_file():
            self._rewrite([])

    def log(self, metrics: Mapping[str, float], step: int, series: str) -> None:
        row = ({"series": series} if series else {}) | {"step": step, **metrics}
        if more := [name for name in row if name not in self._columns]:
            self._rewrite(more)
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def close(self, how: Ending) -> None:
        """All is written."""

    def _rewrite(self, more: Sequence[str]) -> None:
        """Write the file again, with more columns, and without a line that was cut."""
        text = self._path.read_text() if self._path.is_file() else ""
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        self._columns = [*(rows[0] if rows else self._columns), *more]
        new = self._path.with_suffix(".new")
        with new.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        new.replace(self._path)


class _Mlflow:
    """A run of MLflow, the same one when it goes on; its experiment is the job."""

    def __init__(self, run: LoggedRun, anew: bool) -> None:
        for name, value in (
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
        ):
            os.environ.setdefault(name, value)
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._metric = Metric
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.job
        run.shared.mkdir(parents=True, exist_ok=True)
        with _alone(run.shared / f"{MLFLOW_FILE}.lock"):  # the trials of a sweep begin at the same time
            client = MlflowClient(_mlflow_server() or f"sqlite:///{run.shared.absolute() / MLFLOW_FILE}")
            experiment = client.get_experiment_by_name(name)
            # Without a place of its own, artifacts belong to `mlruns` of the working folder.
            artifacts = None if _mlflow_server() else (run.shared.absolute() / "mlruns").as_uri()
            id = experiment.experiment_id if experiment else client.create_experiment(name, artifacts)
        self._client = client
        before = client.search_runs([id], f"tags.neurofleet_run = '{run.id}'", max_results=1)
        if before:
            self._id = before[0].info.run_id
            client.update_run(self._id, "RUNNING")
        else:
            self._id = client.create_run(id, run_name=run.name, tags={"neurofleet_run": run.id}).info.run_id
            client.log_batch(self._id, params=[Param(key, str(value)) for key, value in run.parameters.items()])

    def log(self, metrics: Mapping[str, float], step: int, series: str) -> None:
        now = int(1000 * time.time())
        values = [self._metric(name, value, now, step) for name, value in _named(metrics, series).items()]
        self._client.log_batch(self._id, values)

    def close(self, how: Ending) -> None:
        self._client.set_terminated(self._id, how.upper())


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process after the other do what is within."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _mlflow_server() -> str | None:
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def _wandb_mode() -> str:
    return os.environ.get("WANDB_MODE") or "offline"


class _Wandb:
    """A run of Weights & Biases, offline unless the environment says ``WANDB_MODE=online``.

    Online, it is the same when it goes on. An offline run that is synchronised replaces one of the same id: it is
    either written anew with all of its history, in place of the earlier one, or another run.
    """

    def __init__(self, run: LoggedRun, anew: bool) -> None:
        mode, id = _wandb_mode(), run.id
        if mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # these reports are sent offline, too
            for old in (run.folder / "wandb").glob(f"offline-run-*-{id}") if anew else ():
                shutil.rmtree(old, ignore_errors=True)
            id = id if anew else _new_id()
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=run.job,
            name=run.name,
            id=id,
            resume="allow" if mode == "online" else None,
            dir=run.folder,
            config=dict(run.parameters),
            reinit="create_new",
            settings=wandb.Settings(
                mode=mode,
                console="off",
                silent=True,
                host="",
                save_code=False,
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        self._series: set[str] = set()

    def log(self, metrics: Mapping[str, float], step: int, series: str) -> None:
        if not series:
            self._run.log(dict(metrics), step=step)
            return
        if series not in self._series:  # each counts for itself
            self._series.add(series)
            self._run.define_metric(f"{series}/*", step_metric=f"{series}/step")
        self._run.log(_named({"step": step, **metrics}, series))

    def close(self, how: Ending) -> None:
        self._run.finish(exit_code=0 if how == "finished" else 1)


def _named(metrics: Mapping[str, float], series: str) -> dict[str, float]:
    return {f"{series}/{name}" if series else name: value for name, value in metrics.items()}


_LOGGERS: dict[str, Callable[[LoggedRun, bool], MetricLogger]] = {
    TENSORBOARD: _TensorBoard,
    "csv": _Csv,
    "mlflow": _Mlflow,
    "wandb": _Wandb,
}

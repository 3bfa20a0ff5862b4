"""The metrics of each generation of a fit, for TensorBoard, CSV, MLflow and Weights & Biases."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue

from neurofleet.cluster.log_records import fields_of
from neurofleet.cluster.metric_loggers import LoggedRun, LogMetrics, open_loggers
from neurofleet.jobs.fit.stage_search import GENERATION_STORED
from neurofleet.jobs.run_log import fit_logger

METRICS = ("best", "median", "diversity", "evaluations", "timeouts", "not_ok")


@contextmanager
def generations_logged(names: Sequence[str], folder: Path, job: str) -> Iterator[None]:
    """Give loggers the metrics of each generation that is stored within a ``with`` block.

    They stand in the records of the log, and are taken from there by a thread: a server that is slow to answer holds
    nothing up.

    Parameters
    ----------
    names : sequence of str
        The loggers; with none of them, nothing is done.
    folder : Path
        Where the loggers write.
    job : str

    Raises
    ------
    ClusterError
        A logger cannot be opened.
    """
    if not names:
        yield
        return
    with open_loggers(names, LoggedRun(folder, folder, job, job)) as log:
        records: SimpleQueue[logging.LogRecord] = SimpleQueue()
        handler, listener = QueueHandler(records), QueueListener(records, _ToLoggers(log))
        handler.addFilter(lambda record: record.msg == GENERATION_STORED)
        source = fit_logger().logger
        source.addHandler(handler)
        listener.start()
        try:
            yield
        finally:
            source.removeHandler(handler)
            listener.stop()


class _ToLoggers(logging.Handler):
    """Each cell, stage and seed is a series."""

    def __init__(self, log: LogMetrics) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields = fields_of(record)
        series = f"{fields['cell']}/{fields['stage']}/seed-{fields['seed']}"
        self._log({name: float(fields[name]) for name in METRICS}, fields["generation"], series)

"""A training on the workers of a Ray cluster: what each worker runs, and the driver that monitors them."""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray import cloudpickle
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue

from neurofleet.cluster.ray.internals import environment, train_controller_announced
from neurofleet.cluster.training.checkpoints import CheckpointFiles
from neurofleet.cluster.training.lightning_training import CHECKPOINTS, EpochRow, FitSettings, Training
from neurofleet.errors import ClusterError


def train_worker(config: Mapping[str, Any]) -> None:
    """Train on this worker, in step with the others.

    When a worker is lost, the others fail with a RuntimeError or an OSError, and Ray starts them all again. Any other
    exception comes from what is trained, and is sent to the driver.

    Parameters
    ----------
    config : mapping
        ``training``, ``settings``, ``messages`` (a queue to the driver) and ``driver_id`` (as in the folder of the
        checkpoints).
    """
    # Lightning takes seconds to load, and neither the driver nor the controller of Ray Train has any need of it.
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    from neurofleet.cluster.training.training_process import LightningFit

    settings, messages = config["settings"], config["messages"]
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    try:
        _check_storage(settings.checkpoints, config["driver_id"])
        strategy = {"devices": "auto", "strategy": RayDDPStrategy(), "plugins": [RayLightningEnvironment()]}
        fit = LightningFit(config["training"], settings, lambda row: messages.put(("epoch", row)), strategy)
    except Exception as error:
        messages.put(("failed", _sendable_error(error, context.get_world_rank())))
        raise
    if first:
        messages.put(("started", (fit.epochs_done, context.get_world_size())))
    try:
        fit.run()
    except (RuntimeError, OSError):
        raise
    except Exception as error:
        messages.put(("failed", _sendable_error(error, context.get_world_rank())))
        raise


def _sendable_error(error: Exception, rank: int) -> Exception:
    """Return the error, or one with the same text if it cannot be pickled."""
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001  whatever an exception of another's making does when it is copied
        error = ClusterError(f"{type(error).__name__}: {error}")
    error.add_note(f"In training worker {rank}:\n{''.join(traceback.format_exception(error))}")
    return error


def _check_storage(checkpoints: str, driver_id: str) -> None:
    if not CheckpointFiles(checkpoints).has_driver_id(driver_id):
        raise ClusterError(
            f"The training worker on {socket.gethostname()} does not see what was written in {checkpoints} on"
            " the driver's machine. Name a folder that all machines share, or a URI, as the storage."
        )


logger = logging.getLogger(__name__)

# Ray would check its workers every two seconds, which is long beside an epoch of a small module, and change their
# working folder.
_SETTINGS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_CHDIR_TO_TRIAL_DIR": "0"}
_POLL_S = 0.5
_ABORT_S = 30.0


def fit_on_ray(
    training: Training,
    settings: FitSettings,
    on_epoch: Callable[[EpochRow], None],
    epochs_done: int,
    workers: int | tuple[int, int],
    cpus_per_worker: int,
    max_failures: int,
) -> None:
    """Train on workers of the cluster that this process is connected to.

    Parameters
    ----------
    training, settings, on_epoch
        As of `neurofleet.cluster.training.training_process.LightningFit`; `on_epoch` is called in this thread.
    epochs_done : int
        Those of earlier runs, for which `on_epoch` is not called.
    workers, cpus_per_worker, max_failures
        As of `neurofleet.cluster.training.trainer.train`.

    Raises
    ------
    ClusterError
        If there is no room for the workers, or they were lost too often.
    Exception
        What the factory or the module raised, as it is.
    """
    on_gpu = _uses_gpus(settings.accelerator, workers, cpus_per_worker)
    messages = Queue(actor_options={"num_cpus": 0})
    driver_id = uuid.uuid4().hex
    CheckpointFiles(settings.checkpoints).write_driver_id(driver_id)
    storage, _, _ = settings.checkpoints.rpartition("/")
    try:
        with environment(_SETTINGS), _logging_kept():
            trainer = TorchTrainer(
                train_worker,
                train_loop_config={
                    "training": training,
                    "settings": replace(settings, accelerator="gpu" if on_gpu else "cpu"),
                    "messages": messages,
                    "driver_id": driver_id,
                },
                scaling_config=ScalingConfig(
                    num_workers=workers,  # type: ignore[arg-type]
                    use_gpu=on_gpu,
                    resources_per_worker={"CPU": cpus_per_worker} | ({"GPU": 1} if on_gpu else {}),
                ),
                run_config=RunConfig(
                    name=CHECKPOINTS,
                    storage_path=storage,
                    failure_config=FailureConfig(max_failures=max_failures),
                    logging_config=LoggingConfig("ERROR"),  # type: ignore[call-arg]
                    callbacks=[train_controller_announced(messages)],
                ),
            )
            _TrainingMonitor(trainer, messages, on_epoch, epochs_done).run()
    except TrainingFailedError as error:
        raise ClusterError(
            f"The training was given up after its workers failed more than {max_failures} times. What was"
            f" trained is kept, and the same call goes on from there. {_reason(error)}"
        ) from error
    finally:
        messages.shutdown(force=True)


class _TrainingMonitor:
    """Runs the training in another thread, and deals with the messages of its processes in this one."""

    def __init__(
        self, trainer: TorchTrainer, messages: Queue, on_epoch: Callable[[EpochRow], None], epochs_done: int
    ) -> None:
        self._trainer = trainer
        self._messages = messages
        self._on_epoch = on_epoch
        self._last_epoch = epochs_done
        self._starts = 0
        self._controller: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="training", daemon=True)

    def run(self) -> None:
        self._thread.start()
        try:
            while self._thread.is_alive():
                self._deal_with_next(_POLL_S)
            while self._deal_with_next(0.0):
                continue
        except BaseException:
            self._abort()
            raise
        if self._error is not None:
            raise self._error

    def _fit(self) -> None:
        # Ray registers its own handler of Ctrl-C when this is called in the main thread.
        try:
            self._trainer.fit()
        except BaseException as error:  # noqa: BLE001  a thread's border: raised again in the caller's
            self._error = error

    def _deal_with_next(self, wait_s: float) -> bool:
        """Deal with a message, if there is one."""
        try:
            message = self._messages.get(timeout=wait_s) if wait_s else self._messages.get_nowait()
        except Empty:
            return False
        self._deal_with(*message)
        return True

    def _deal_with(self, kind: str, content: Any) -> None:
        match kind:
            case "controller":
                self._controller = content
            case "started":
                epochs_done, workers = content
                if self._starts:
                    logger.warning(
                        "Workers of the training were lost; it goes on after epoch %d with %d.",
                        epochs_done,
                        workers,
                    )
                self._starts += 1
            case "epoch" if content["epoch"] > self._last_epoch:
                self._last_epoch = content["epoch"]
                self._on_epoch(content)
            case "failed":
                raise content

    def _abort(self) -> None:
        """End the workers. The controller ends with them, which is how its caller gets to know."""
        give_up = time.monotonic() + _ABORT_S
        while self._controller is None and self._thread.is_alive() and time.monotonic() < give_up:
            with suppress(Empty):
                kind, content = self._messages.get(timeout=_POLL_S)
                self._controller = content if kind == "controller" else None
        if self._controller is not None:
            self._controller.abort.remote()
            self._thread.join(timeout=_ABORT_S)


def _uses_gpus(accelerator: str, workers: int | tuple[int, int], cpus_per_worker: int) -> bool:
    """Whether the workers get GPUs; refused when they could never be placed."""
    fewest = workers if isinstance(workers, int) else workers[0]
    available = ray.cluster_resources()
    on_gpu = accelerator == "gpu" or (accelerator == "auto" and available.get("GPU", 0) >= 1)
    required = {"CPU": fewest * cpus_per_worker} | ({"GPU": fewest} if on_gpu else {})
    for kind, number in required.items():
        if available.get(kind, 0) < number:
            raise ClusterError(
                f"{fewest} workers need {number} {kind}s together, and the cluster has"
                f" {available.get(kind, 0):g}. Use fewer workers, start more machines"
                + (", or train on CPUs with accelerator: cpu." if kind == "GPU" else ".")
            )
    return on_gpu


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Put back what Ray Train changes in the logging of this process."""
    of_train = logging.getLogger("ray.train")
    before = of_train.level, of_train.propagate, list(of_train.handlers)
    try:
        yield
    finally:
        of_train.level, of_train.propagate, of_train.handlers = before[0], before[1], before[2]


def _reason(error: TrainingFailedError) -> str:
    failures = getattr(error, "worker_failures", {})
    rank, reason = next(iter(failures.items()), (None, error))
    last = next((line for line in reversed(str(reason).splitlines()) if line.strip()), repr(reason))
    return f"Worker {rank}: {last.strip()}" if rank is not None else last.strip()

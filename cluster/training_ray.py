"""A training on the workers of a Ray cluster, watched from here."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue

from cluster.errors import ClusterError
from cluster.ray_internals import environment, train_controller_announced
from cluster.training import CHECKPOINTS, Row
from cluster.training_checkpoints import CheckpointFiles

logger = logging.getLogger(__name__)

# Ray looks after its workers every two seconds, which is long beside an epoch of a small module; and it
# would change their working folder.
_SETTINGS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_CHDIR_TO_TRIAL_DIR": "0"}
_POLL_S = 0.5
_ABORT_S = 30.0


def fit_on_ray(
    plan: Mapping[str, Any],
    tell: Callable[[Row], None],
    epochs_done: int,
    workers: int | tuple[int, int],
    cpus_per_worker: int,
    max_failures: int,
) -> None:
    """Train on workers of the cluster that this process is connected to.

    Parameters
    ----------
    plan, tell
        As of `cluster.training_process.Fit`; `tell` is called in this thread.
    epochs_done : int
        Those that need not be told again.
    workers, cpus_per_worker, max_failures
        As of `cluster.training.train`.

    Raises
    ------
    ClusterError
        If there is no room for the workers, or they were lost too often.
    Exception
        What the factory or the module raised, as it is.
    """
    on_gpu = _place(plan["accelerator"], workers, cpus_per_worker)
    messages = Queue(actor_options={"num_cpus": 0})
    word = uuid.uuid4().hex
    CheckpointFiles(plan["checkpoints"]).leave_word(word)
    storage, _, _ = plan["checkpoints"].rpartition("/")
    try:
        with environment(_SETTINGS), _logging_kept():
            trainer = TorchTrainer(
                _work,
                train_loop_config={
                    "plan": {**plan, "accelerator": "gpu" if on_gpu else "cpu"},
                    "messages": messages,
                    "word": word,
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
            _Watch(trainer, messages, tell, epochs_done).run()
    except TrainingFailedError as error:
        raise ClusterError(
            f"The training was given up after its workers failed more than {max_failures} times. What was"
            f" trained is kept, and the same call goes on from there. {_reason(error)}"
        ) from error
    finally:
        messages.shutdown(force=True)


def _work(config: Mapping[str, Any]) -> None:
    from cluster.training_worker import train_worker  # Lightning, which this process has no need of

    train_worker(config)


class _Watch:
    """Runs the training in a thread of its own and deals in this one with what its processes say."""

    def __init__(
        self, trainer: TorchTrainer, messages: Queue, tell: Callable[[Row], None], epochs_done: int
    ) -> None:
        self._trainer = trainer
        self._messages = messages
        self._tell = tell
        self._told = epochs_done
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
            case "epoch" if content["epoch"] > self._told:
                self._told = content["epoch"]
                self._tell(content)
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


def _place(accelerator: str, workers: int | tuple[int, int], cpus_per_worker: int) -> bool:
    """Whether the workers get GPUs; refused when they could never be placed."""
    fewest = workers if isinstance(workers, int) else workers[0]
    there = ray.cluster_resources()
    on_gpu = accelerator == "gpu" or (accelerator == "auto" and there.get("GPU", 0) >= 1)
    wanted = {"CPU": fewest * cpus_per_worker} | ({"GPU": fewest} if on_gpu else {})
    for kind, number in wanted.items():
        if there.get(kind, 0) < number:
            raise ClusterError(
                f"{fewest} workers need {number} {kind}s together, and the cluster has"
                f" {there.get(kind, 0):g}. Use fewer workers, start more machines"
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

"""An evaluation in pieces that any process can do: one method on one split, kept as JSON when done."""

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.interruption import raise_if_asked
from jobs.train.pieces import keep

if TYPE_CHECKING:
    import numpy as np

    from learners.neuprint.evaluation import Answer, Case
    from learners.neuprint.recordings import Recordings
    from learners.splits import Split

CONTROL_PROBE = "linear"
WITH_HAND = "+ hand statistics"


def do_piece(payload: Mapping[str, Any]) -> float:
    """Do one piece and keep what it has found in its file; return how many seconds it took.

    Parameters
    ----------
    payload : mapping
        ``place`` (the file), ``sources``, ``label``, ``mode``, ``splits`` (the file of splits), ``number``
        (of the split), ``seed``, ``methods``, ``name``, ``settings`` (of the dynamics, or None for a
        baseline), and ``control`` (whether labels are also shuffled).
    """
    from learners.neuprint.downstream import trained_neurons
    from learners.neuprint.evaluation import baseline_answer
    from learners.neuprint.fit import fit
    from learners.neuprint.settings import Settings
    from learners.training import train_here

    started = time.monotonic()
    recordings = _recordings(json.dumps(payload["sources"]))
    case = case_of(payload, recordings, splits_in(Path(payload["splits"]))[payload["number"]])
    if payload["settings"] is None:
        name = payload["name"]
        _keep(payload, case, [_told(name, "", baseline_answer(case, name))], {})
        return time.monotonic() - started

    def train(task: Any, name: str, seed: int) -> Any:
        return train_here(task, name, seed, lambda row: raise_if_asked())

    neurons = trained_neurons(recordings, case.split, payload["mode"])
    model = fit(recordings, neurons, Settings(**payload["settings"]), train, case.seed)
    keep_phi(payload, case, model.phi)
    return time.monotonic() - started


def case_of(payload: Mapping[str, Any], recordings: "Recordings", split: "Split") -> "Case":
    """Return what a piece is done on."""
    from learners.neuprint.evaluation import Case

    names, seed = recordings.labels(payload["label"]), payload["seed"] + payload["number"]
    return Case(recordings, names, split, payload["mode"], seed)


def splits_in(path: Path) -> "list[Split]":
    """Return the splits that all methods of a job share."""
    from learners.split_files import read_splits

    return read_splits(path)


def keep_phi(payload: Mapping[str, Any], case: "Case", phi: "np.ndarray") -> None:
    """Probe the Phi of all neurons, and keep what was found."""
    from learners.neuprint.evaluation import FOREST, PROBES, probe_answer, with_hand_answer

    name, answers, shuffled = payload["name"], [], {}
    if payload["control"]:
        control = case.shuffled()
        guess = probe_answer(control, CONTROL_PROBE, phi).guess
        shuffled = {"true": control.true.tolist(), "guess": guess.tolist()}
    if "phi" in payload["methods"]:
        answers += [_told(name, probe, probe_answer(case, probe, phi)) for probe in PROBES]
    if "phi_and_hand" in payload["methods"]:
        answers.append(_told(f"{name} {WITH_HAND}", FOREST, with_hand_answer(case, phi)))
    _keep(payload, case, answers, shuffled)


def _told(method: str, probe: str, answer: "Answer") -> dict[str, Any]:
    return {
        "method": method,
        "probe": probe,
        "guess": answer.guess.tolist(),
        "probability": answer.probabilities.max(1).round(6).tolist(),
    }


def _keep(
    payload: Mapping[str, Any], case: "Case", answers: list[dict[str, Any]], shuffled: dict[str, Any]
) -> None:
    test = case.split.rows("test").tolist()
    keep(Path(payload["place"]), {"test": test, "answers": answers, "shuffled": shuffled})


@lru_cache(maxsize=1)
def _recordings(sources: str) -> "Recordings":
    from learners.neuprint.opening import open_recordings

    return open_recordings(**json.loads(sources))

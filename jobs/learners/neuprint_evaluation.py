"""An evaluation of NeuPRINT in pieces, one method on one split each, and the table that is made of them."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from rich.console import Console

from neurofleet.jobs.interruption import raise_if_interrupted
from neurofleet.jobs.learners.evaluation_pieces import PIECES, Piece, do_missing, write_result
from neurofleet.jobs.learners.neuprint_job import NeuprintInputs, NeuprintSpec
from neurofleet.learners.label_controls import shuffle_control
from neurofleet.learners.local_training import train_here
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.neuprint_model import PROBES
from neurofleet.learners.neuprint.neuron_classification import (
    FOREST,
    NeuronAnswer,
    NeuronSplitCase,
    baseline_answer,
    classes_of,
    probe_answer,
    with_hand_answer,
)
from neurofleet.learners.neuprint.neuron_splits import Mode, summary, trained_neurons, units_of
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.recording_files import open_recordings
from neurofleet.learners.neuprint.train_neuprint import fit
from neurofleet.learners.scores import Scores, score
from neurofleet.learners.splits import Split, read_splits

SPLITS = "split.parquet"
OF_PHI = ("phi", "phi_and_hand")

Payload = dict[str, Any]


def piece_payloads(spec: NeuprintSpec, inputs: NeuprintInputs, out: Path) -> list[Payload]:
    """Return all pieces, split by split: each settings of the dynamics, then each baseline."""
    settings = {name: chosen.model_dump(mode="json") for name, chosen in inputs.settings.items()}
    if not set(spec.methods) & set(OF_PHI):
        settings = {}
    work: dict[str, Any] = settings | {name: None for name in spec.methods if name not in OF_PHI}
    control = list(settings)[-1] if settings else None  # those that see most
    return [
        {
            "place": str((out / PIECES / f"split-{number}-{quote(name, safe='+ ')}.json").absolute()),
            "sources": inputs.sources,
            "label": spec.label,
            "mode": spec.mode,
            "splits": str((out / SPLITS).absolute()),
            "number": number,
            "seed": spec.seed,
            "methods": list(spec.methods),
            "name": name,
            "settings": chosen,
            "control": name == control,
        }
        for number in range(len(inputs.splits))
        for name, chosen in work.items()
    ]


def do_missing_pieces(wanted: Sequence[Payload], workers: int, console: "Console") -> None:
    """Do the pieces that are not kept yet; see `neurofleet.jobs.learners.evaluation_pieces.do_missing`."""
    pieces = [Piece(payload, payload["name"], f"split {payload['number']}, {payload['name']}") for payload in wanted]
    do_missing("neurofleet.jobs.learners.neuprint_evaluation:do_neuprint_piece", pieces, workers, console)


CONTROL_PROBE = "linear"
WITH_HAND = "+ hand statistics"


def do_neuprint_piece(payload: Mapping[str, Any]) -> float:
    """Do one piece and keep what it has found in its file; return how many seconds it took.

    Parameters
    ----------
    payload : mapping
        ``place`` (the file), ``sources``, ``label``, ``mode``, ``splits`` (the file of splits), ``number``
        (of the split), ``seed``, ``methods``, ``name``, ``settings`` (of the dynamics, or None for a
        baseline), and ``control`` (whether labels are also shuffled).
    """
    started = time.monotonic()
    recordings = _recordings(json.dumps(payload["sources"]))
    case = case_of(payload, recordings, splits_in(Path(payload["splits"]))[payload["number"]])
    if payload["settings"] is None:
        name = payload["name"]
        _keep(payload, case, [_answer_row(name, "", baseline_answer(case, name))], {})
        return time.monotonic() - started

    def train(task: Any, name: str, seed: int) -> Any:
        return train_here(task, name, seed, lambda row: raise_if_interrupted())

    neurons = trained_neurons(recordings, case.split, payload["mode"])
    model = fit(recordings, neurons, NeuprintSettings(**payload["settings"]), train, case.seed)
    keep_phi(payload, case, model.phi)
    return time.monotonic() - started


def case_of(payload: Mapping[str, Any], recordings: "Recordings", split: "Split") -> "NeuronSplitCase":
    """Return what a piece is done on."""
    names, seed = recordings.labels(payload["label"]), payload["seed"] + payload["number"]
    return NeuronSplitCase(recordings, names, split, payload["mode"], seed)


def splits_in(path: Path) -> "list[Split]":
    """Return the splits that all methods of a job share."""
    return read_splits(path)


def keep_phi(payload: Mapping[str, Any], case: "NeuronSplitCase", phi: "np.ndarray") -> None:
    """Probe the Phi of all neurons, and keep what was found."""
    name, answers, shuffled = payload["name"], [], {}
    if payload["control"]:
        control = case.shuffled()
        guess = probe_answer(control, CONTROL_PROBE, phi).guess
        shuffled = {"true": control.true.tolist(), "guess": guess.tolist()}
    if "phi" in payload["methods"]:
        answers += [_answer_row(name, probe, probe_answer(case, probe, phi)) for probe in PROBES]
    if "phi_and_hand" in payload["methods"]:
        answers.append(_answer_row(f"{name} {WITH_HAND}", FOREST, with_hand_answer(case, phi)))
    _keep(payload, case, answers, shuffled)


def _answer_row(method: str, probe: str, answer: "NeuronAnswer") -> dict[str, Any]:
    return {
        "method": method,
        "probe": probe,
        "guess": answer.guess.tolist(),
        "probability": answer.probabilities.max(1).round(6).tolist(),
    }


def _keep(
    payload: Mapping[str, Any], case: "NeuronSplitCase", answers: list[dict[str, Any]], shuffled: dict[str, Any]
) -> None:
    test = case.split.rows("test").tolist()
    write_result(Path(payload["place"]), {"test": test, "answers": answers, "shuffled": shuffled})


@lru_cache(maxsize=1)
def _recordings(sources: str) -> "Recordings":
    return open_recordings(**json.loads(sources))


REFERENCE = "hand_forest"
SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


def predictions_table(wanted: Sequence[Payload], inputs: NeuprintInputs) -> "pa.Table":
    """Return a row for each test neuron, split, method and probe: its class, and what it was taken for."""
    neurons = inputs.recordings.neurons
    ids, animals = neurons.index.to_numpy().astype(str), inputs.recordings.labels("animal")
    parts = []
    for payload in wanted:
        kept = json.loads(Path(payload["place"]).read_text())
        test = kept["test"]
        for answer in kept["answers"]:
            parts.append(
                pa.table(
                    {
                        "neuron_id": ids[test],
                        "animal": animals[test],
                        "split": [payload["number"]] * len(test),
                        "method": [answer["method"]] * len(test),
                        "probe": [answer["probe"]] * len(test),
                        "true": inputs.classes[test],
                        "predicted": answer["guess"],
                        "probability": answer["probability"],
                    }
                )
            )
    return pa.concat_tables(parts)


def split_scores(wanted: Sequence[Payload], inputs: NeuprintInputs, mode: "Mode") -> dict[str, Any]:
    """Return the table of methods and the control of shuffled labels, as plain JSON.

    Intervals are 95 % by Student's t: over animals where each is tested as a whole, its seeds averaged; else
    over the splits, whose test neurons overlap, so that they tell how a result depends on the draw.
    """
    found: dict[tuple[str, str], dict[int, Scores]] = {}
    shuffles = []
    for payload in wanted:
        kept = json.loads(Path(payload["place"]).read_text())
        number = payload["number"]
        true = inputs.classes[kept["test"]]
        names = classes_of(inputs.classes, inputs.splits[number])
        for answer in kept["answers"]:
            own = found.setdefault((answer["method"], answer["probe"]), {})
            own[number] = score(true, answer["guess"], names)
        if shuffled := kept["shuffled"]:
            shuffles.append(score(shuffled["true"], shuffled["guess"], names))
    units = units_of(inputs.recordings, inputs.splits, mode)
    reference = found.get((REFERENCE, ""))
    rows = [_row(key, own, reference, units) for key, own in found.items()]
    return {
        "methods": rows,
        "majority_rate": _mean_majority(next(iter(found.values()))),
        "reference": REFERENCE if reference else None,
        "intervals_over": "animals" if mode == "cross" else "splits",
        "control": asdict(shuffle_control(shuffles)) if shuffles else None,
    }


def _row(
    key: tuple[str, str],
    own: "Mapping[int, Scores]",
    reference: "Mapping[int, Scores] | None",
    units: Sequence[str],
) -> dict[str, Any]:
    line: dict[str, Any] = {"method": key[0], "probe": key[1], "splits": len(own)}
    line["n"] = sum(one.n for one in own.values())
    for name in SCORES:
        each = {number: getattr(one, name) for number, one in own.items()}
        line |= _summary(name, each, units, within=(0.0, 1.0))
    if reference is not None and key[0] != REFERENCE:
        gain = {number: one.accuracy - reference[number].accuracy for number, one in own.items()}
        line |= _summary("difference", gain, units)
    return line


def _summary(
    name: str, each: Mapping[int, float], units: Sequence[str], within: tuple[float, float] = (-1.0, 1.0)
) -> dict[str, float | None]:
    """Return mean and interval; no interval of a single unit."""
    found = summary(list(each.values()), [units[number] for number in each])
    return {
        name: found.mean,
        f"{name}_low": None if found.low is None else max(found.low, within[0]),
        f"{name}_high": None if found.high is None else min(found.high, within[1]),
    }


def _mean_majority(own: "Mapping[int, Scores]") -> float:
    """Return what always naming the most frequent class of each test part would reach, over all of them."""
    rates, sizes = zip(*((one.majority_rate, one.n) for one in own.values()), strict=True)
    return float(np.average(rates, weights=sizes))


def scores_table(found: Mapping[str, Any], facts: Mapping[str, Any]) -> "pa.Table":
    """Return a row for each method and probe, with the split, the sizes and the majority rate beside it."""
    common = {
        "label": facts["label"],
        "split": facts["split"]["how"],
        "n_classes": len(facts["data"]["neurons_of_class"]),
        "majority_rate": found["majority_rate"],
        "reference": found["reference"],
        "intervals_over": found["intervals_over"],
    }
    columns = dict.fromkeys(name for row in found["methods"] for name in row)
    rows = [common | {name: row.get(name) for name in columns} for row in found["methods"]]
    return pa.Table.from_pylist(rows)

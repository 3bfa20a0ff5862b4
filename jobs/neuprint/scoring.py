"""From the kept pieces of an evaluation to its table: means over splits, intervals, and the control."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.neuprint.evaluations import Payload
from jobs.neuprint.inputs import Inputs

if TYPE_CHECKING:
    import pyarrow as pa

    from learners.neuprint.downstream import Mode
    from learners.scores import Scores

REFERENCE = "hand_forest"
SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


def predictions_table(wanted: Sequence[Payload], inputs: Inputs) -> "pa.Table":
    """Return a row for each test neuron, split, method and probe: its class, and what it was taken for."""
    import pyarrow as pa

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


def scores_of(wanted: Sequence[Payload], inputs: Inputs, mode: "Mode") -> dict[str, Any]:
    """Return the table of methods and the control of shuffled labels, as plain JSON.

    Intervals are 95 % by Student's t: over animals where each is tested as a whole, its seeds averaged; else
    over the splits, whose test neurons overlap, so that they tell how a result depends on the draw.
    """
    from dataclasses import asdict

    from learners.neuprint.downstream import units_of
    from learners.neuprint.evaluation import classes_of
    from learners.scores import score
    from learners.shuffle_control import shuffle_control

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
    from learners.neuprint.downstream import summary

    found = summary(list(each.values()), [units[number] for number in each])
    return {
        name: found.mean,
        f"{name}_low": None if found.low is None else max(found.low, within[0]),
        f"{name}_high": None if found.high is None else min(found.high, within[1]),
    }


def _mean_majority(own: "Mapping[int, Scores]") -> float:
    """Return what always naming the most frequent class of each test part would reach, over all of them."""
    import numpy as np

    rates, sizes = zip(*((one.majority_rate, one.n) for one in own.values()), strict=True)
    return float(np.average(rates, weights=sizes))


def scores_table(found: Mapping[str, Any], facts: Mapping[str, Any]) -> "pa.Table":
    """Return a row for each method and probe, with the split, the sizes and the majority rate beside it."""
    import pyarrow as pa

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

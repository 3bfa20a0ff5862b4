"""What a threshold of probability costs and catches, from trainings that left one type out each."""

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.report import page
from jobs.sims.report.contents import Contents

SHOWN = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def unknown_section(contents: Contents) -> list[str]:
    """Return a table of thresholds, or nothing where no type was left out."""
    curves: Mapping[str, Mapping[str, Sequence[Any]]] = contents.facts.get("unknown_types") or {}
    if not curves:
        return []
    head = ["type left out", *(f"below {threshold:g}" for threshold in SHOWN)]
    rows: list[list[str]] = []
    for name, curve in curves.items():
        rows.append([name, *(_share(_at(curve, "unknown_recall", threshold)) for threshold in SHOWN)])
    kept = [_mean([_at(curve, "known_accuracy", t) for curve in curves.values()]) for t in SHOWN]
    rows.append(["other types, right and kept (mean)", *map(_share, kept)])
    numbers = range(1, len(head))
    return [
        page.heading(2, "Types that the reference does not have"),
        page.paragraph(
            "Each type was left out of training once. A cell whose highest probability is below the threshold"
            " is called unknown: the rows give the share of the left out type then called unknown, the"
            " last one the share of the other types' test cells that keep their label and have the right one."
        ),
        page.table(head, rows, list(numbers)),
    ]


def _at(curve: Mapping[str, Sequence[Any]], key: str, threshold: float) -> float | None:
    nearest = min(range(len(curve["threshold"])), key=lambda i: abs(curve["threshold"][i] - threshold))
    return curve[key][nearest]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"

"""The findings of an analysis: on the terminal, and as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurofleet.jobs.studies.study import read_findings

SPREAD = {
    "within_cell": "models of one cell",
    "between_cells": "cells of a class",
    "between_classes": "classes",
}
DISPERSION_HEAD = ("", "mean", "against", "mean", "Mann-Whitney p", "Wilcoxon p", "permuted p")
FOREST_HEAD = (
    "grouping",
    "macro F1 [of shuffles]",
    "accuracy",
    "majority F1",
    "majority rate",
    "shuffled F1",
    "shuffled acc.",
)
LINK_HEAD = ("quantity", "of", "higher", "n", "δ", "adj. p", "2-sided", "agrees")
MAP_HEAD = ("map", "made of", "clusters", "placed", "in their cell's cluster")


def print_results(out: str, as_json: bool) -> None:
    """Print the findings of an analysis that has ended, or all of them as JSON.

    Raises
    ------
    UsageError
        It has not ended.
    """
    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print_findings(found, Console())


def print_findings(found: Mapping[str, Any], console: "Console") -> None:
    """Print dispersion, forests, maps, and conductances beside genes and e-features."""
    told = (
        ("Dispersion, one row a grouping and expectation", DISPERSION_HEAD, dispersion_rows(found)),
        ("Random forests, split by cell", FOREST_HEAD, forest_rows(found)),
        ("Maps", MAP_HEAD, map_rows(found)),
    )
    for title, head, rows in told:
        if rows:
            _print(console, title, head, rows)
    for grouping, pair in link_pairs(found):
        _print(console, f"{grouping}: {pair}", LINK_HEAD, link_rows(found, grouping, pair))


def dispersion_rows(found: Mapping[str, Any]) -> list[Sequence[str]]:
    """Return a row of text for each grouping and expectation."""
    return [
        (
            f"{name}: {SPREAD[row['smaller']]}",
            f"{row['mean_smaller']:.2f}",
            SPREAD[row["larger"]],
            f"{row['mean_larger']:.2f}",
            p_value(row["p_mann_whitney"]),
            p_value(row["p_wilcoxon"]),
            p_value(row["p_permutation"]),
        )
        for name, one in found["groupings"].items()
        for row in one["dispersion"]
    ]


def forest_rows(found: Mapping[str, Any]) -> list[Sequence[str]]:
    """Return a row of text for each forest, with its controls."""
    return [
        (
            name,
            f"{one['forest']['f1']:.3f} [{one['forest']['f1_low']:.3f}, {one['forest']['f1_high']:.3f}]",
            *(
                f"{one['forest'][key]:.3f}"
                for key in ("accuracy", "majority_f1", "majority_rate", "shuffled_f1", "shuffled_accuracy")
            ),
        )
        for name, one in found["groupings"].items()
        if one["forest"]
    ]


def map_rows(found: Mapping[str, Any]) -> list[Sequence[str]]:
    """Return a row of text for each map and what is placed on it."""
    rows: list[Sequence[str]] = []
    for name, one in found["maps"].items():
        first = (name, f"{one['fitted']:,} rows", str(one["clusters"]))
        for source, placed in one["placed"].items() or [("", None)]:
            share = placed and placed["in_their_cells_cluster"]
            told = "" if share is None else f"{share:.0%}"
            rows.append((*first, f"{placed['rows']:,} of {source}" if placed else "", told))
    return rows


def link_pairs(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the groupings and pairs of classes with linked quantities of more than one kind."""
    kinds: dict[tuple[str, str], set[str]] = {}
    for row in found["links"]:
        kinds.setdefault((row["grouping"], row["pair"]), set()).add(row["family"])
    return [pair for pair, families in kinds.items() if len(families) > 1]


def link_rows(found: Mapping[str, Any], grouping: str, pair: str) -> list[Sequence[str]]:
    """Return a row of text for each linked quantity of a pair of classes."""
    agrees = {True: "yes", False: "no", None: ""}
    return [
        (
            row["quantity"],
            row["table"],
            row["higher"],
            f"{row['n_higher']}/{row['n_lower']}",
            f"{row['cliffs_delta']:.2f}",
            p_value(row["p_adjusted"]),
            p_value(row["p_adjusted_two_sided"]),
            agrees[row["agrees"]],
        )
        for row in found["links"]
        if (row["grouping"], row["pair"]) == (grouping, pair)
    ]


def p_value(p: float | None) -> str:
    """Return a p value as text, "" where there is none."""
    if p is None:
        return ""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def _print(console: "Console", title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=Text(title, justify="left"), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(head):
        is_number = number > 0 and any(row[number][:1].isdigit() for row in rows)
        table.add_column(
            name,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=head is LINK_HEAD and not number,
        )
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    console.print(table)

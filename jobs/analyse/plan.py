"""``neurofleet plan`` of an analysis: what it is about, before anything is computed."""

from pathlib import Path

from jobs.analyse.inputs import read_inputs
from jobs.analyse.spec import AnalyseSpec


def print_analyse_plan(spec: AnalyseSpec, folder: Path) -> None:
    """Print cells, classes, shared parameters and tables.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    from rich.console import Console
    from rich.table import Table

    inputs, notes = read_inputs(spec, folder)
    console = Console()
    table = Table(
        title=f"{spec.name}: {len(set(inputs.models.cells)):,} cells, {len(inputs.models):,} models"
    )
    for name in ("grouping", "classes (cells)", "shared parameters", "dispersion", "forest"):
        table.add_column(name)
    for name, one in inputs.groupings.items():
        counts = one.classes.value_counts(sort=False).sort_index()
        table.add_row(
            name,
            ", ".join(f"{key} {count}" for key, count in counts.items()),
            str(len(one.shared)),
            "yes" if one.disperses else "no",
            "no" if one.forest is None else f"{one.forest.nunique()} classes",
        )
    console.print(table)
    for key, measured in (*inputs.features.items(), *inputs.expression.items()):
        shape = f"{len(measured.values):,} rows, {measured.values.shape[1]} columns"
        console.print(f"{key}: {shape}, for {', '.join(measured.classes)}", highlight=False, markup=False)
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)

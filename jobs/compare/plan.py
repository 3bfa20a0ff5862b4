"""``neurofleet plan`` of a comparison: what is simulated."""

from pathlib import Path

from jobs.carrying_out import refuse_missing
from jobs.compare.inputs import read_comparisons
from jobs.compare.spec import CompareSpec


def print_compare_plan(spec: CompareSpec, folder: Path) -> None:
    """Print cells, models and steps.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    from rich.console import Console

    refuse_missing(spec, folder)
    inputs, notes = read_comparisons(spec, folder)
    console = Console()
    for one in inputs:
        models = ", ".join(f"{len(of)} {kind}" for kind, of in one.populations.items())
        steps = ", ".join(f"{1000 * step.amplitude_nA:.4g}" for step in one.steps)
        said = f"{one.cell}: {models} models, each at steps of {steps} pA"
        console.print(said, soft_wrap=True, highlight=False, markup=False)
    total = sum(len(of) * len(one.steps) for one in inputs for of in one.populations.values())
    console.print(f"{spec.name}: {total} simulations of a step with spikes, a second or so of one core each.")
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)

"""``neurofleet plan`` of synapses: what is simulated."""

from pathlib import Path

from jobs.populations.models import refuse_missing_models
from jobs.synapse.inputs import read_synapsed
from jobs.synapse.spec import SynapseSpec


def print_synapse_plan(spec: SynapseSpec, folder: Path) -> None:
    """Print cells, models and simulations.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    from rich.console import Console

    refuse_missing_models(spec, folder)
    inputs, notes = read_synapsed(spec, folder)
    models = sum(len(one.population) for one in inputs)
    sites = 1 + len(set(spec.distances_um)) * spec.sites_each
    console = Console()
    console.print(
        f"{spec.name}: {models} models of {len(inputs)} cells, {sites} synapses each: {models * sites} "
        "simulations of 1.2 s without spikes, most of them well below a second of one core.",
        soft_wrap=True,
        highlight=False,
    )
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)

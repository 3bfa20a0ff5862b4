"""What is given synapses: populations whose cells have an apical dendrite, and their classes."""

from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UsageError
from jobs.populations.models import read_populations
from jobs.synapse.spec import MetadataSpec, SynapseSpec
from neurosim.faults import nearest
from neurosim.population import Population

ALL = "all cells"


@dataclass(frozen=True)
class Synapsed:
    """A cell that is given synapses; `group` is its class."""

    population: Population
    group: str

    @property
    def cell(self) -> str:
        return self.population.cell


def read_synapsed(spec: SynapseSpec, folder: Path) -> tuple[list[Synapsed], list[str]]:
    """Read models and classes; relative paths start at `folder`.

    Returns
    -------
    list of Synapsed
    list of str
        Which cells are left out, and why.

    Raises
    ------
    UsageError, InputError
        Models or the table cannot be used, or no cell has an apical dendrite.
    """
    from neurosim.morphology import check_morphology

    found, notes = [], []
    populations = read_populations(spec.models, folder)
    groups = _groups(spec.classes, folder, [p.cell for p in populations]) if spec.classes else {}
    for population in populations:
        model = population.model
        if not check_morphology(model.morphology.write(), model.axon).has_apical:
            notes.append(f"{population.cell}: left out, its morphology has no apical dendrite")
            continue
        found.append(Synapsed(population, groups.get(population.cell, ALL)))
    if not found:
        raise UsageError(
            "models: no cell has an apical dendrite (type 4 in SWC), along which synapses are put. Expected "
            "pyramidal cells."
        )
    return found, notes


def _groups(classes: MetadataSpec, folder: Path, cells: list[str]) -> dict[str, str]:
    import pandas as pd

    path = folder / classes.table
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"classes: {path} is no table in CSV or Parquet ({error}).") from error
    for key, column in (("id", classes.id), ("column", classes.column)):
        if column not in table:
            raise UsageError(
                f"classes.{key}: {path} has no column {column!r}{nearest(column, list(table.columns))}."
            )
    known = dict(zip(table[classes.id].astype(str), table[classes.column].astype(str), strict=True))
    missing = [cell for cell in cells if cell not in known]
    if missing:
        raise UsageError(
            f"classes: {path} has no row for {', '.join(missing[:5])} in its column {classes.id} (it has "
            f"{', '.join(list(known)[:3])} …). Ids there must be those of the models."
        )
    return {cell: known[cell] for cell in cells}

"""``neurofleet export``: one model of a run, or a published one, for use without this project."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.job_kinds import kind_in
from neurofleet.jobs.quick import quick_lines
from neurofleet.jobs.studies.populations import POSTERIOR, ModelsSpec, cells_with_draws, open_fit, read_populations
from neurofleet.jobs.terminal import print_json
from neurofleet.neurosim.cells.cell_model import hoc_name
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.morphology_check import check_morphology
from neurofleet.neurosim.exchange.allen_fit import read_fit, write_fit
from neurofleet.neurosim.exchange.model_export import Clamp, write_hoc, write_sonata
from neurofleet.neurosim.studies.cell_models import CellModels, parameters_by_name, published_cell_models

DEFAULT_STEP = (0.2, 500.0, 1000.0)  # nA, ms, ms: where nothing is known of the cell's recordings
REST_MS = 200.0  # simulated after the step


@dataclass(frozen=True)
class Chosen:
    """The model to export.

    Attributes
    ----------
    model : FitModel
    values : mapping
        Full name -> value of its free parameters.
    sections : tuple of str
        Those of soma, axon, dend and apic that the cell has.
    junction_potential_mV : float
    remark : str
        What is written beside it: that it is from a quick run.
    """

    model: FitModel
    values: Mapping[str, float]
    sections: tuple[str, ...]
    junction_potential_mV: float
    remark: str = ""

    @property
    def sweeps(self) -> list[int]:
        """Return the numbers of the sweeps it was fitted to."""
        return sorted({n for step in self.model.targets.protocols.values() for n in step.sweeps})

    @property
    def parameters(self) -> dict[str, float]:
        """Return all its parameters, free and fixed."""
        return dict(self.model.fixed) | dict(self.values)

    @property
    def distributed(self) -> list[str]:
        """Return the parameters that are not uniform over their section."""
        spread = {p.full_name: p.distribution for p in self.model.free} | dict(self.model.distributions)
        return sorted(name for name, text in spread.items() if text != "uniform")


def export_command(
    source: Path,
    to: Path | None,
    format: str,
    cell: str | None = None,
    rank: int = 1,
    morphology: Path | None = None,
    axon: str | None = None,
    mechanisms: Path | None = None,
    as_json: bool = False,
) -> Path:
    """Write a model in another format.

    Parameters
    ----------
    source : Path
        The run of a fit, or an Allen fit file.
    to : Path, optional
        The folder to write, new or empty; by default ``CELL-FORMAT`` in the working folder.
    format : {"sonata", "allen", "hoc"}
    cell : str, optional
        Which cell of the run; may be left out where there is one.
    rank : int
        Which model of its hall of fame, as its tables count them: 1 is the best.
    morphology, axon
        Of a fit file, which does not tell.
    mechanisms : Path, optional
        Folder of the mod files that a fit file names, beside those of the project; by default ``modfiles`` beside it.
    as_json : bool
        Print what was written as JSON.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UsageError, InputError
        The source is neither, or has no such cell or rank; an option does not fit it; the format cannot hold the
        model; or the folder is in use.
    """
    if format not in FORMATS:
        raise UsageError(
            f"--format: expected one of {', '.join(FORMATS)}, found {format!r}{did_you_mean(format, FORMATS)}."
        )
    if source.is_file():
        chosen = _published(source, cell, rank, morphology, axon, mechanisms)
    else:
        if (morphology, axon, mechanisms) != (None, None, None):
            raise UsageError("--morphology, --axon and --mechanisms belong to a fit file; a run knows its own.")
        chosen = _of_run(source, cell, rank)
    to = Path(f"{chosen.model.cell}-{format}") if to is None else to
    _check_new(to)
    hint = FORMATS[format](to, chosen)
    written = {"folder": str(to), "cell": chosen.model.cell, "format": format, "axon": chosen.model.axon, "hint": hint}
    text = f"Written: {to} ({chosen.model.cell}, {format}, axon {chosen.model.axon}). {hint}"
    if as_json:
        print_json(written)
    else:
        print(text)
    return to


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"--to {folder}: expected a new or an empty folder, found one that is in use. Name another with --to."
        )


def _of_run(root: Path, cell: str | None, rank: int) -> Chosen:
    source = "posterior" if kind_in(root) == POSTERIOR else "run"
    if source == "posterior":
        known = list(cells_with_draws(root, None)[1])
    else:
        known = [each.id for each in open_fit(root)[1].cells or ()]
    if cell is None:
        if len(known) > 1:
            raise UsageError(f"{root} holds {len(known)} cells: name one with --cell, such as {known[0]}.")
        cell = known[0]
    if cell not in known:
        raise UsageError(f"--cell: {root} has no cell {cell}{did_you_mean(cell, known)}.")
    (population,) = read_populations(ModelsSpec.model_validate({source: root, "cells": [cell]}), Path())
    if not 1 <= rank <= len(population):
        raise UsageError(
            f"--rank: ranks start at 1, the best model of a fit or the first draw of a posterior; cell {cell} has "
            f"the models 1 to {len(population)}, found {rank}."
        )
    recording = population.recording
    junction_potential_mV = 14.0 if recording is None else recording.junction_potential_mV
    return replace(_chosen(population, rank - 1, junction_potential_mV), remark=" ".join(quick_lines(root)))


def _published(
    fit_file: Path, cell: str | None, rank: int, morphology: Path | None, axon: str | None, mechanisms: Path | None
) -> Chosen:
    if rank != 1:
        raise UsageError("--rank chooses from a run's hall of fame; a fit file holds one model.")
    if morphology is None:
        raise UsageError(f"{fit_file} is one model: name its morphology with --morphology FILE.swc.")
    fit = read_fit(fit_file, mechanisms)
    checked = check_morphology(morphology, axon or "stub")
    name = cell or fit_file.stem.removesuffix("_fit")
    population = published_cell_models(name, fit, checked.file, axon or "stub")
    return _chosen(population, 0, fit.junction_potential_mV)


def _chosen(population: CellModels, index: int, junction_potential_mV: float) -> Chosen:
    model = population.model
    has_apical = check_morphology(model.morphology.unpacked(), model.axon).has_apical
    sections = ("soma", "axon", "dend", "apic") if has_apical else ("soma", "axon", "dend")
    return Chosen(model, parameters_by_name(population, index), sections, junction_potential_mV)


def _sonata(to: Path, chosen: Chosen) -> str:
    steps = sorted(chosen.model.targets.protocols.values(), key=lambda step: step.amplitude_nA)
    clamps, stop_ms = [Clamp(*DEFAULT_STEP)], DEFAULT_STEP[1] + DEFAULT_STEP[2] + REST_MS
    if steps:
        step = steps[-1]
        stop_ms = min(step.stop_ms + REST_MS, step.duration_ms)
        clamps = [Clamp(step.amplitude_nA, step.start_ms, step.stop_ms - step.start_ms)]
        clamps += [Clamp(step.holding_nA, 0.0, stop_ms)] * bool(step.holding_nA)
    write_sonata(
        to,
        chosen.model,
        chosen.values,
        chosen.sections,
        clamps,
        stop_ms,
        junction_potential_mV=chosen.junction_potential_mV,
        sweeps=chosen.sweeps,
        remark=chosen.remark,
    )
    return "README.txt there says how to run it in BMTK."


def _allen(to: Path, chosen: Chosen) -> str:
    if chosen.distributed:
        raise UsageError(
            "--format allen: a fit file holds one value for a section, and these parameters depend on the "
            f"distance from the soma: {', '.join(chosen.distributed)}. Take --format hoc or sonata."
        )
    model = chosen.model
    to.mkdir(parents=True, exist_ok=True)
    write_fit(
        to / "fit.json",
        chosen.parameters,
        model.mechanisms,
        model.conditions,
        chosen.junction_potential_mV,
        chosen.sweeps,
        chosen.sections,
        model.user_mechanisms.known,
        chosen.remark,
    )
    (to / model.morphology.name).write_bytes(model.morphology.content)
    hint = "The axon treatment is not in a fit file: pass it on."
    if model.user_mechanisms_used.sources:
        model.user_mechanisms.copy(model.user_mechanisms_used.sources, to / "modfiles")
        hint += f" Nor are the mechanisms of your own: they are in {to / 'modfiles'}."
    return hint


def _hoc(to: Path, chosen: Chosen) -> str:
    model = chosen.model
    to.mkdir(parents=True, exist_ok=True)
    name = hoc_name(model.cell)
    write_hoc(to / f"{name}.hoc", model.build_cell(), chosen.values, chosen.remark)
    (to / model.morphology.name).write_bytes(model.morphology.content)
    model.user_mechanisms.copy(model.mechanism_names, to / "modfiles")
    conditions = model.conditions
    return (
        f'In it: nrnivmodl modfiles, then in NEURON load_file("{name}.hoc") and new {name}("."), at '
        f"celsius = {conditions.celsius:g} and v_init = {conditions.v_init_mV:g}."
    )


FORMATS: dict[str, Callable[[Path, Chosen], str]] = {"sonata": _sonata, "allen": _allen, "hoc": _hoc}
"""Format -> what writes a folder of it, and returns what to do with it."""

OTHER_FORMATS = frozenset(
    "arbor asc bluepyopt bmtk brian brian2 csv eden genesis h5 hdf5 json lems mat mod moose nest netcdf netpyne "
    "neuroml neuron nml npz nwb parquet pickle pkl py python swc txt xlsx xml yaml yml zip".split()
)
"""Names of formats that a model is not written in: taken for a folder's name only with a path before them."""

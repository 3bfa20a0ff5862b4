"""Cells on which searches are compared: the active stage of each, with targets from NEURON or from recordings.

The stages before are taken as having found the published or known subthreshold parameters: the active stage searches
these again within the bounds that it would inherit, so that strategies differ in the active search alone. The recorded
steps of a cell with known parameters are simulated by NEURON, with a noisy current and noisy voltages in three repeats,
and lie away from its rheobase; features and their standard deviations are then extracted as from any recording. Two of
the steps are not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.neurosim.cells.demo_cell import SWC
from tests.benchmarks.evaluation import data_folder, mouse_problem, prepared, published_value, rat_cell

ALL_ACTIVE = "allactive_hof_params_dev.parquet"
START_MS, STOP_MS, DURATION_MS = 250.0, 1250.0, 1500.0
SAMPLING_RATE_HZ = 20_000.0
REPEATS = 3
OF_RHEOBASE = (0.7, 1.25, 1.6, 2.0)
UNSEEN_OF_RHEOBASE = (1.35, 1.5)  # between the steps that fits are trained on
STEP_NOISE, NOISE_EVERY_MS, NOISE_MV = 0.1, 2.0, 0.05
TRIED_NA = np.geomspace(0.01, 1.0, 50)
JUNCTION_POTENTIAL_MV = 14.0
SPIKE_MV = -30.0  # spikes of some published models hardly reach -20 mV
ATOL = 1e-4
KNOWN = "known.json"


@dataclass(frozen=True)
class SearchCell:
    """The active stage of a cell.

    Attributes
    ----------
    problem : Problem
    known : dict of str to float or None
        Published or true parameters, None where there are none of this recipe.
    """

    problem: Any
    known: Mapping[str, float] | None


def _mouse(folder: Path) -> SearchCell:
    problem, fit = mouse_problem()
    return SearchCell(problem, fit)


def _demo(folder: Path) -> SearchCell:
    from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS
    from tests.benchmarks.small_cell import small_problem

    return SearchCell(small_problem(2), KNOWN_PARAMETERS)


RAT_SUBTHRESHOLD = {"cm.apic": 2.0, "cm.dend": 2.0, "cm": 1.0, "Ra": 100.0, "g_pas": 3e-5, "e_pas": -90.0}
"""Of the published models of thick-tufted layer 5 cells (Hay et al. 2011); Ih has its full bounds."""


def _rat(folder: Path) -> SearchCell:
    subject = prepared(rat_cell())
    names = subject.problem(0, None).names
    winner = {name: RAT_SUBTHRESHOLD.get(name, RAT_SUBTHRESHOLD[name.partition(".")[0]]) for name in names}
    return SearchCell(subject.problem(2, winner), None)


@dataclass(frozen=True)
class Known:
    """A published model on a morphology, by default the demo's, without its apical dendrite for an aspiny cell.

    `morphology` and `fit` are patterns in the folder of real data.
    """

    name: str
    cell: str
    morphology: str | None = None
    dendrite: str = "spiny"
    axon: str = "stub"
    fit: str | None = None

    def parameters(self) -> dict[str, float]:
        """Return name -> value, from its fit file or the published population."""
        if self.fit is not None:
            from neurofleet.neurosim.exchange.allen_fit import read_fit

            return dict(read_fit(_file(self.fit)).parameters)
        import pandas as pd

        models = pd.read_parquet(data_folder(ALL_ACTIVE))
        best = models[models["cell_id"].astype("int64") == int(self.cell)].sort_values("hof_index").iloc[0]
        return {name: float(value) for name, value in best.dropna().items()}

    def job_cell(self, folder: Path) -> Any:
        """Return the cell as a job names it; its recording is simulated in `folder` unless it is there."""
        from neurofleet.jobs.fit.fit_job import CellSpec

        place = self._folder(folder)
        morphology = place / "cell.swc" if self.morphology is None else _file(self.morphology)
        if not (place / KNOWN).is_file():
            place.mkdir(parents=True, exist_ok=True)
            if self.morphology is None:
                points = [line for line in SWC.splitlines() if self.dendrite == "spiny" or line.split()[1] != "4"]
                morphology.write_text("\n".join(points) + "\n")
            known = record(self, morphology, place / "cell.nwb")
            (place / KNOWN).write_text(json.dumps(known, indent=1))
        return CellSpec(
            id=self.name,
            morphology=morphology,
            recordings=place / "cell.nwb",
            dendrite=self.dendrite,
            axon=self.axon,
            junction_potential_mV=JUNCTION_POTENTIAL_MV,
        )

    def known(self, folder: Path) -> dict[str, float]:
        """Return the parameters that its recording in `folder` was simulated with, as the recipe names them."""
        return json.loads((self._folder(folder) / KNOWN).read_text())

    def _folder(self, folder: Path) -> Path:
        return folder / "recordings" / self.name

    def __call__(self, folder: Path) -> SearchCell:
        subject = prepared(self.job_cell(folder))
        known = self.known(folder)
        winner = {name: known[name] for name in subject.problem(1, None).names}
        problem = subject.problem(2, winner)
        return SearchCell(problem, known if set(problem.names) <= set(known) else None)


def published_model(cell: Known, morphology: Path) -> tuple[Any, dict[str, float]]:
    """Return a model at NEURON's tolerance of finalists, and its parameters.

    The model is that of its fit file, which may have other mechanisms than the recipe, or the recipe's.
    """
    from neurofleet.neurosim.cells.cell_model import UNIFORM, Accuracy, CellParameter
    from neurofleet.neurosim.cells.fit_model import FitModel
    from neurofleet.neurosim.cells.morphology import MorphologyFile
    from neurofleet.neurosim.cells.recipe import load_recipe
    from neurofleet.neurosim.exchange.allen_fit import read_fit
    from neurofleet.neurosim.features.step_protocols import TargetSet
    from neurofleet.neurosim.studies.cell_models import published_cell_models

    recipe = load_recipe("all-active", cell.dendrite, morphology.parent)
    last, apical = len(recipe.stages) - 1, cell.dendrite == "spiny"
    published = cell.parameters()
    bounds = recipe.bounds_until(last, apical)
    known = {}
    for name, (low, high) in bounds.items():
        value = published_value(published, name)
        if value is not None:
            known[name] = min(max(value, low), high)
    if cell.fit is not None:
        models = published_cell_models(cell.name, read_fit(_file(cell.fit)), MorphologyFile.read(morphology), cell.axon)
        own = dict(zip(models.parameters, models.values[0].tolist(), strict=True))
        return replace(models.model, accuracy=Accuracy(ATOL)), known | own
    distributions = recipe.distributions_until(last)
    model = FitModel(
        cell=cell.name,
        morphology=MorphologyFile.read(morphology),
        axon=cell.axon,
        conditions=recipe.conditions.conditions(),
        mechanisms={section: tuple(names) for section, names in recipe.mechanisms_until(last, apical).items()},
        free=tuple(
            CellParameter(*name.rsplit(".", 1), *limits, distributions.get(name, UNIFORM))
            for name, limits in bounds.items()
        ),
        fixed=recipe.fixed_until(last, apical),
        distributions=distributions,
        targets=TargetSet(protocols={}, targets=()),
        accuracy=Accuracy(ATOL),
    )
    return model, known


def record(cell: Known, morphology: Path, file: Path) -> dict[str, float]:
    """Simulate the recording of a published model by NEURON; return its parameters, as recipes name them."""
    from neurofleet.neurosim.cells.fit_model import recording_name
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator
    from neurofleet.neurosim.features.step_protocols import StepProtocol
    from neurofleet.neurosim.recordings.nwb_writer import write_nwb
    from neurofleet.neurosim.recordings.recording import Sweep

    model, known = published_model(cell, morphology)
    warm = WarmEvaluator(model.build_evaluator())
    values = [known[name] for name in warm.parameter_names]

    def spikes(amplitude_nA: float) -> int:
        step = StepProtocol("step", amplitude_nA, START_MS, STOP_MS, STOP_MS)
        voltage = warm.responses(values, {"step": model.protocol(step)})[recording_name("step")]["voltage"]
        above = np.asarray(voltage) > SPIKE_MV
        return int((above[1:] & ~above[:-1]).sum())

    rheobase_nA = next(a for a in TRIED_NA if spikes(float(a)))
    shares = (-0.5, *OF_RHEOBASE, *UNSEEN_OF_RHEOBASE)
    amplitudes = [round(share * float(rheobase_nA), 3) for share in shares]
    counts = {amplitude: spikes(amplitude) for amplitude in amplitudes}
    random = np.random.default_rng(1)
    time_ms = np.arange(0.0, DURATION_MS + 1e-9, 1000.0 / SAMPLING_RATE_HZ)
    inside = (time_ms >= START_MS) & (time_ms < STOP_MS)
    sweeps = []
    for number, amplitude_nA in enumerate(np.repeat(amplitudes, REPEATS).tolist()):
        voltage_mV = _response_to_noise(warm, amplitude_nA, time_ms, values, random)
        sweeps.append(
            Sweep(
                number=number,
                stimulus_name="Long Square",
                sampling_rate_Hz=SAMPLING_RATE_HZ,
                current_nA=amplitude_nA * inside,
                voltage_mV=voltage_mV + NOISE_MV * random.standard_normal(time_ms.size),
                start_ms=START_MS,
                stop_ms=STOP_MS,
                amplitude_nA=amplitude_nA,
                holding_nA=0.0,
                duration_ms=DURATION_MS,
            )
        )
    warm.close()
    (file.parent / "steps.json").write_text(json.dumps({"rheobase_nA": float(rheobase_nA), "spikes": counts}))
    told = "Simulated steps of a published model"
    junction = {"junction_potential_mV": JUNCTION_POTENTIAL_MV}
    write_nwb(file, sweeps, session_description=told, cell_id=cell.name, **junction)
    return known


def _response_to_noise(
    warm: Any, amplitude_nA: float, time_ms: np.ndarray, values: list[float], random: np.random.Generator
) -> np.ndarray:
    from bluepyopt.ephys.protocols import SweepProtocol
    from bluepyopt.ephys.recordings import CompRecording
    from bluepyopt.ephys.stimuli import NrnCurrentPlayStimulus

    from neurofleet.neurosim.cells.fit_model import SOMA, location, recording_name

    inside_ms = np.arange(START_MS, STOP_MS + 1e-9, NOISE_EVERY_MS)
    current = amplitude_nA * (1.0 + STEP_NOISE * random.standard_normal(inside_ms.size))
    times = np.concatenate([[0.0, START_MS], inside_ms, [STOP_MS, DURATION_MS]])
    place = location(SOMA)
    played = NrnCurrentPlayStimulus(times, np.pad(current, 2), location=place)
    played.total_duration = DURATION_MS
    recording = CompRecording(name=recording_name("noise"), location=place, variable="v")
    protocol = SweepProtocol("noise", [played], [recording], cvode_active=True)
    response = warm.responses(values, {"noise": protocol})[recording_name("noise")]
    return np.interp(time_ms, response["time"], response["voltage"])


def _file(pattern: str) -> Path:
    return next(path for path in data_folder("").glob(pattern) if "marker" not in path.name)


MADE = {
    cell.name: cell
    for cell in (
        Known("small-spiny", "479704527"),
        Known("small-aspiny", "485184849", dendrite="aspiny"),
        Known(
            "491766131",
            "491766131",
            "allen_allactive_491766131/*.swc",
            axon="legacy-stub",
            fit="allen_allactive_491766131/fit_parameters.json",
        ),
        Known("479704527", "479704527", "allen_osb_model_483108201/*_m.swc"),
        Known("395830185", "395830185", "bmtk_morphologies/Scnn1a_*_m.swc"),
        Known("485184849", "485184849", "bmtk_morphologies/485184849*.swc", "aspiny"),
    )
}
"""Cells whose recordings are simulated. 395830185 is on the morphology of another cell of its Cre line."""

CELLS: dict[str, Callable[[Path], SearchCell]] = {"demo": _demo, "483101699": _mouse, **MADE, "C060114A7": _rat}
"""Cell -> what reads it; `folder` keeps what is simulated."""


def neuron_totals(cell: SearchCell, models: np.ndarray) -> list[float]:
    """Return the totals of models, shape (n, P), by NEURON at the tolerance of the finalists."""
    from neurofleet.neurosim.cells.cell_model import Accuracy
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    model = replace(cell.problem.model, accuracy=Accuracy(ATOL))
    warm = WarmEvaluator(model.build_evaluator(), max_steps=1_000_000)
    totals = [float(warm.evaluate(values).sum()) for values in models]
    warm.close()
    return totals

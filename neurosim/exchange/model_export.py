"""Export a fitted model for use without this project: as a hoc template, or as a SONATA network of one node."""

import csv
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_model import UNIFORM, bluepyopt_distribution, reversal_of
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.morphology import as_swc
from neurofleet.neurosim.cells.morphology_check import check_morphologies
from neurofleet.neurosim.cells.morphology_readers import read_reconstruction
from neurofleet.neurosim.exchange.allen_fit import write_fit

if TYPE_CHECKING:
    from bluepyopt.ephys.models import CellModel


def write_hoc(path: Path | str, cell_model: "CellModel", parameters: Mapping[str, float], remark: str = "") -> None:
    """Write a hoc template of `cell_model` (``NAME("folder of the morphology")`` makes the cell in NEURON).

    Parameters
    ----------
    path : Path or str
    cell_model : bluepyopt.ephys.models.CellModel
        As `neurofleet.neurosim.cells.cell_model.build_cell_model` returns it; the axon treatment goes along.
    parameters : mapping
        Full name -> value of each parameter that is not fixed.
    remark : str
        One line, as a comment on top.

    Raises
    ------
    InputError
        A value is missing, or the file cannot be written.
    """
    free = [name for name, parameter in cell_model.params.items() if not parameter.frozen]
    missing = [name for name in free if name not in parameters]
    if missing:
        raise InputError(f"{path}: expected a value for each free parameter, found none for {', '.join(missing)}.")
    values = {name: parameters[name] for name in free}
    text = (f"// {remark}\n" if remark else "") + cell_model.create_hoc(values, disable_banner=True)
    path = Path(path)
    try:
        path.write_text(text)
    except OSError as error:
        raise InputError(f"{path}: the hoc template cannot be written ({error.strerror}).") from error


POPULATION = "cell"
NODE_TYPE_ID = 100
SONATA_MAGIC = 0x0A7A
BMTK_SECTION_UM = 20.0  # BMTK makes 1 + 2 floor(L / (2 dL)) segments of each section, we 1 + 2 floor(L / 40 um)
PROCESSING = {
    "stub": "stub_axon",
    "legacy-stub": "aibs_allactive",
    "legacy-stub-60um": "legacy_stub_60um_axon",
    "full": "full_axon",
}
_README = """\
{cell}: a fitted neuron model as a SONATA network of one node.

Needs NEURON and BMTK (pip install neuron bmtk), and this once:

    cd components/mechanisms && nrnivmodl modfiles

Then, in this folder:

    python run_bionet.py

The voltage of the soma is in output/voltage.h5, its spikes in output/spikes.h5. The current and the time step
stand in simulation_config.json; the parameters of the model in components/fits, as an Allen fit file.
Axon: {axon} (model_processing {processing}{own}).
{converted}"""
_CONVERTED = """\
Morphology: made from {name}, since BMTK reads SWC only. The soma is a sphere with the membrane area that NEURON makes
of the outline in {name}; all other points are the same. Where a branch is thinner than the one that it grows from,
NEURON reads its first piece thicker from SWC than from {name}.
"""


@dataclass(frozen=True)
class Clamp:
    """A step of current into the middle of the soma."""

    amplitude_nA: float
    start_ms: float
    duration_ms: float


def write_sonata(
    folder: Path | str,
    model: "FitModel",
    values: Mapping[str, float],
    sections: Sequence[str],
    clamps: Sequence[Clamp],
    stop_ms: float,
    dt_ms: float = 0.025,
    junction_potential_mV: float = 14.0,
    sweeps: Sequence[int] = (),
    remark: str = "",
) -> None:
    """Write a cell for BMTK's BioNet, which reads morphologies in SWC only: of another format, an SWC is made.

    Parameters
    ----------
    folder : Path or str
        Made here; must be new or empty.
    model : FitModel
        Distributions of parameters are exported too.
    values : mapping
        Full name -> value of its free parameters.
    sections : sequence of str
        Those of soma, axon, dend and apic that the cell has.
    clamps : sequence of Clamp
        What the written simulation injects.
    stop_ms, dt_ms : float
        Its end, and its fixed time step.
    junction_potential_mV, sweeps, remark
        For the fit file; see `neurofleet.neurosim.exchange.allen_fit.write_fit`.

    Raises
    ------
    InputError
        A value is missing; the folder is in use or cannot be written.
    """
    folder = Path(folder)
    missing = [parameter.full_name for parameter in model.free if parameter.full_name not in values]
    if missing:
        raise InputError(f"{folder}: expected a value for each free parameter, found none for {missing}.")
    distributions = {p.full_name: p.distribution for p in model.free} | dict(model.distributions)
    distributions = {name: text for name, text in distributions.items() if text != UNIFORM}
    known = model.user_mechanisms.known
    ions = {reversal_of(name.rpartition(".")[0], known) for name in (*model.fixed, *values)}
    beyond_bmtk = bool(distributions or model.conditions.other_reversals_mV or ions - {None, "na", "k"})
    processing = "legacy_stub_axon" if beyond_bmtk and model.axon == "legacy-stub" else PROCESSING[model.axon]
    try:
        components = _folders(folder)
        write_fit(
            components / "fits" / "fit.json",
            dict(model.fixed) | dict(values),
            model.mechanisms,
            model.conditions,
            junction_potential_mV,
            sweeps,
            sections,
            known,
            remark,
        )
        (components / "morphologies" / "cell.swc").write_bytes(_swc(model))
        model.user_mechanisms.copy(model.mechanism_names, components / "mechanisms" / "modfiles")
        shutil.copyfile(Path(__file__).with_name("run_bionet.py"), folder / "run_bionet.py")
        (folder / "distributions.py").write_text(_distributions(distributions, sections))
        _write_nodes(folder / "network", processing)
        _write_json(folder / "circuit_config.json", _circuit())
        _write_json(folder / "simulation_config.json", _simulation(model, clamps, stop_ms, dt_ms))
        where_defined = "" if processing == "aibs_allactive" else ", defined in run_bionet.py"
        converted = "" if _is_swc(model) else _CONVERTED.format(name=model.morphology.name)
        readme = _README.format(
            cell=model.cell, axon=model.axon, processing=processing, own=where_defined, converted=converted
        )
        (folder / "README.txt").write_text(f"{remark}\n\n{readme}" if remark else readme)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}).") from error


def _is_swc(model: "FitModel") -> bool:
    return model.morphology.name.lower().endswith(".swc")


def _swc(model: "FitModel") -> bytes:
    """Return the morphology in SWC; a soma drawn as an outline becomes a sphere of the area that it has in NEURON."""
    if _is_swc(model):
        return model.morphology.content
    with tempfile.TemporaryDirectory(prefix="neurofleet-") as folder:
        path = Path(folder) / model.morphology.name
        path.write_bytes(model.morphology.content)
        cell, (summary,) = read_reconstruction(path), check_morphologies([path])
    if isinstance(summary, InputError):
        raise summary
    if len(cell.soma.points) == 1:
        sphere = [*cell.soma.centre, np.sqrt(summary.area_um2["soma"] / np.pi)]
        cell = replace(cell, soma=replace(cell.soma, points=np.array([sphere])))
    return as_swc(cell).encode()


def _folders(folder: Path) -> Path:
    """Make the folders, and return that of the components."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or an empty folder, found one that is in use.")
    for name in ("fits", "morphologies", "mechanisms", "templates", "synapses"):
        (folder / "components" / name).mkdir(parents=True)
    (folder / "network").mkdir()
    return folder / "components"


def _write_nodes(folder: Path, processing: str) -> None:
    node_type = {
        "node_type_id": NODE_TYPE_ID,
        "model_type": "biophysical",
        "model_template": "ctdb:Biophys1.hoc",
        "model_processing": processing,
        "morphology": "cell.swc",
        "dynamics_params": "fit.json",
    }
    with (folder / "node_types.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, node_type, delimiter=" ", lineterminator="\n")
        table.writeheader()
        table.writerow(node_type)
    with h5py.File(folder / "nodes.h5", "w") as file:
        file.attrs["magic"] = np.uint32(SONATA_MAGIC)
        file.attrs["version"] = np.array([0, 1], dtype=np.uint32)
        nodes = file.create_group(f"nodes/{POPULATION}")
        for name, value in (
            ("node_id", 0),
            ("node_type_id", NODE_TYPE_ID),
            ("node_group_id", 0),
            ("node_group_index", 0),
        ):
            nodes[name] = np.array([value], dtype=np.uint64)
        for axis in "xyz":
            nodes[f"0/{axis}"] = np.zeros(1)


def _circuit() -> dict[str, Any]:
    components = ("morphologies", "mechanisms", "synapses", "templates")
    keys = dict(zip(components, ("morphologies", "mechanisms", "synaptic_models", "templates"), strict=True))
    return {
        "manifest": {
            "$BASE_DIR": ".",
            "$COMPONENTS": "$BASE_DIR/components",
            "$NETWORK": "$BASE_DIR/network",
        },
        "target_simulator": "NEURON",
        "components": {f"{keys[name]}_dir": f"$COMPONENTS/{name}" for name in components}
        | {"biophysical_neuron_models_dir": "$COMPONENTS/fits"},
        "networks": {
            "nodes": [{"nodes_file": "$NETWORK/nodes.h5", "node_types_file": "$NETWORK/node_types.csv"}],
            "edges": [],
        },
    }


def _simulation(model: "FitModel", clamps: Sequence[Clamp], stop_ms: float, dt_ms: float) -> dict[str, Any]:
    inputs = {
        f"clamp_{number}": {
            "input_type": "current_clamp",
            "module": "IClamp",
            "node_set": "all",
            "amp": clamp.amplitude_nA,
            "delay": clamp.start_ms,
            "duration": clamp.duration_ms,
        }
        for number, clamp in enumerate(clamps)
    }
    return {
        "manifest": {"$BASE_DIR": ".", "$OUTPUT": "$BASE_DIR/output"},
        "network": "circuit_config.json",
        "target_simulator": "NEURON",
        "run": {
            "tstop": stop_ms,
            "dt": dt_ms,
            "dL": BMTK_SECTION_UM,
            "spike_threshold": -20.0,
            "nsteps_block": 5000,
        },
        "conditions": {"celsius": model.conditions.celsius, "v_init": model.conditions.v_init_mV},
        "inputs": inputs,
        "reports": {
            "voltage": {
                "cells": "all",
                "variable_name": "v",
                "module": "membrane_report",
                "sections": "soma",
                "file_name": "voltage.h5",
            }
        },
        "output": {
            "output_dir": "$OUTPUT",
            "log_file": "log.txt",
            "spikes_file": "spikes.h5",
            "overwrite_output_dir": True,
        },
    }


def _distributions(distributions: Mapping[str, str], sections: Sequence[str]) -> str:
    """Return Python that holds each distribution as a function of distance (um) and value."""
    lines = ['"""Parameters that depend on the path distance from the middle of the soma."""', ""]
    lines += ["import math", "", "DISTRIBUTIONS = {"]
    for full_name, text in distributions.items():
        name, _, section = full_name.rpartition(".")
        expression = bluepyopt_distribution(text).replace("{", "").replace("}", "")
        for part in sections if section == "all" else (section,):
            lines.append(f'    "{name}.{part}": lambda distance, value: {expression},')
    return "\n".join([*lines, "}"]) + "\n"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")

"""Read and write the Allen Institute's fit files (``*_fit.json``), so that any published model can be run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_model import Conditions, build_cell_model, check_cell, has_ion, reversal_of
from neurofleet.neurosim.cells.morphology import SECTIONS
from neurofleet.neurosim.mechanisms import MECHANISMS, Mechanism, UserMechanisms

if TYPE_CHECKING:
    from bluepyopt.ephys.models import CellModel

    from neurofleet.neurosim.cells.cell_morphology import CellMorphology

PASSIVE = "pas"
BESIDE = "modfiles"  # folder beside a fit file with mechanisms that it names


@dataclass(frozen=True)
class AllenFit:
    """A fitted model, all-active or perisomatic.

    Parameters
    ----------
    parameters : mapping
        Full name (``gbar_NaTa_t.axon``, ``Ra.all``) -> value. Where sections differ in their reversal
        potentials, those are here too (``ena.axon``).
    mechanisms : mapping
        Section -> names of its mechanisms.
    conditions : Conditions
    junction_potential_mV : float
        To be subtracted from a recorded voltage (the file has it with the opposite sign).
    sweeps : tuple of int
        Sweeps the model was fitted to.
    user_mechanisms : UserMechanisms
        Those of its mechanisms that came with it.
    """

    parameters: Mapping[str, float]
    mechanisms: Mapping[str, tuple[str, ...]]
    conditions: Conditions
    junction_potential_mV: float = 14.0
    sweeps: tuple[int, ...] = ()
    user_mechanisms: UserMechanisms = field(default_factory=UserMechanisms)

    def cell_model(self, name: str, morphology: "CellMorphology") -> "CellModel":
        """Return a BluePyOpt ``CellModel``; the axon mode it was fitted with is not in the file."""
        known = self.user_mechanisms.known
        return build_cell_model(name, morphology, self.mechanisms, (), self.parameters, self.conditions, known)


def read_fit(path: Path | str, mechanisms_folder: Path | None = None) -> AllenFit:
    """Read a fit file.

    Parameters
    ----------
    path : Path or str
    mechanisms_folder : Path, optional
        Mod files of mechanisms that it names. Without it, a folder ``modfiles`` beside the file is read where the file
        names mechanisms that are not of the project.

    Raises
    ------
    InputError
        The file is missing, no fit file, or names a mechanism or parameter that does not exist; or the mod files cannot
        be used.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: expected a fit file, but it cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path}: expected a fit file in JSON, found something else ({error}).") from error
    try:
        parameters, mechanisms = _read_genome(content["genome"])
        parameters = _read_passive(content["passive"][0], parameters) | parameters
        conditions, reversal = _read_conditions(content["conditions"][0])
        fitting = content.get("fitting", [{}])[0]
        by_section = {"all": (PASSIVE,)} | {section: tuple(names) for section, names in mechanisms.items()}
        own = _own_mechanisms(path, {name for names in mechanisms.values() for name in names}, mechanisms_folder)
        known = own.known
        fit = AllenFit(
            parameters=parameters | {n: mV for n, mV in reversal.items() if _has_reversal(n, by_section, known)},
            mechanisms=by_section,
            conditions=conditions,
            junction_potential_mV=-float(fitting.get("junction_potential", -14.0)),
            sweeps=tuple(int(sweep) for sweep in fitting.get("sweeps", ())),
            user_mechanisms=own,
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path}: expected an Allen fit file with `passive`, `conditions` and a `genome` of section, "
            f"name, value and mechanism, found one that is not complete ({type(error).__name__}: {error}). "
            "Download it again."
        ) from error
    try:
        check_cell(fit.mechanisms, (), fit.parameters, known)
    except InputError as error:
        unknown = {name for names in fit.mechanisms.values() for name in names} - known.keys()
        how = f" Name the folder of the mod files with `mechanisms:`, or put them into {BESIDE} beside it."
        raise InputError(f"{path}: {error}{how if unknown else ''}") from error
    return fit


def _own_mechanisms(path: Path, names: set[str], folder: Path | None) -> UserMechanisms:
    """Return those of `names` that are in `folder`; without it, those beside the fit file if the project lacks one."""
    if folder is None and (names <= MECHANISMS.keys() or not (path.parent / BESIDE).is_dir()):
        return UserMechanisms()
    all_of_them = UserMechanisms.read(folder or path.parent / BESIDE)
    if refused := [f"mechanism {name} {all_of_them.unfit[name]}" for name in sorted(names & all_of_them.unfit.keys())]:
        raise InputError(f"{path}: {'; '.join(refused)}.")
    own = all_of_them.only(names)
    if folder is not None and not own.sources:
        raise InputError(
            f"{path}: names no mechanism of {folder} ({', '.join(all_of_them.files)}), but {', '.join(sorted(names))}. "
            "Correct `mechanisms:`, or leave it out."
        )
    return own


def _has_reversal(full_name: str, mechanisms: Mapping[str, Sequence[str]], known: Mapping[str, Mechanism]) -> bool:
    name, _, section = full_name.rpartition(".")
    return has_ion(section, name[1:], mechanisms, known)


def _read_genome(genome: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, list[str]]]:
    parameters: dict[str, float] = {}
    mechanisms: dict[str, list[str]] = {}
    for gene in genome:
        section, mechanism = str(gene["section"]), gene["mechanism"]
        parameters[f"{gene['name']}.{section}"] = float(gene["value"])
        if mechanism and mechanism != PASSIVE and mechanism not in mechanisms.setdefault(section, []):
            mechanisms[section].append(mechanism)
    return parameters, mechanisms


def _read_passive(passive: Mapping[str, Any], genome: Mapping[str, float]) -> dict[str, float]:
    """Return the passive parameters that the genome does not repeat by section, as all-active files do."""
    given = {name.rpartition(".")[0] for name in genome}
    parameters = {}
    for key, name in (("ra", "Ra"), ("e_pas", "e_pas")):
        if key in passive and name not in given:
            parameters[f"{name}.all"] = float(passive[key])
    for entry in passive.get("cm", ()) if "cm" not in given else ():
        parameters[f"cm.{entry['section']}"] = float(entry["cm"])
    return parameters


def _read_conditions(conditions: Mapping[str, Any]) -> tuple[Conditions, dict[str, float]]:
    """Return the conditions, and the reversal potentials that differ from the first section's or are of other ions."""
    first, *others = conditions["erev"]
    ena, ek = float(first["ena"]), float(first["ek"])
    differing = {
        f"{name}.{entry['section']}": float(entry[name])
        for entry in others
        for name, common in (("ena", ena), ("ek", ek))
        if float(entry[name]) != common
    }
    for entry in conditions["erev"]:
        other = {name: float(mV) for name, mV in entry.items() if name not in ("section", "ena", "ek")}
        differing |= {f"{name}.{entry['section']}": mV for name, mV in other.items()}
    return Conditions(float(conditions["celsius"]), float(conditions["v_init"]), ena, ek), differing


def write_fit(
    path: Path | str,
    parameters: Mapping[str, float],
    mechanisms: Mapping[str, Sequence[str]],
    conditions: Conditions,
    junction_potential_mV: float = 14.0,
    sweeps: Sequence[int] = (),
    sections: Sequence[str] | None = None,
    known: Mapping[str, Mechanism] = MECHANISMS,
    remark: str = "",
) -> None:
    """Write a fit file; `read_fit` gives the same model back.

    Parameters
    ----------
    path : Path or str
    parameters : mapping
        Full name -> value, uniform over its section. Those of ``all`` are repeated for each section.
    mechanisms : mapping
        Section -> names. One without any parameter in `parameters` is written with its defaults.
    conditions : Conditions
    junction_potential_mV : float
        Subtracted from the recorded voltage.
    sweeps : sequence of int
        Sweeps the model was fitted to.
    sections : sequence of str, optional
        The sections that the cell has; without it those that `parameters` and `mechanisms` name.
    known : mapping
        Mechanisms by name, where the user has added some.
    remark : str
        What whoever opens the file is to know.

    Raises
    ------
    InputError
        A mechanism or parameter that does not exist, or the file cannot be written.
    """
    check_cell(mechanisms, (), parameters, known)
    named = {*mechanisms, *(name.rpartition(".")[2] for name in parameters)} - {"all"}
    cell_sections = [s for s in SECTIONS if s in (sections or named or SECTIONS)]
    values = _by_section(parameters, mechanisms, cell_sections, known)
    owners = {f"{p}_{m.name}": m.name for m in known.values() for p in m.parameters}
    genome = [
        {
            "section": section,
            "name": name,
            "value": repr(float(value)),
            "mechanism": "" if owners.get(name, PASSIVE) == PASSIVE else owners[name],
        }
        for (name, section), value in values.items()
        if reversal_of(name, known) is None
    ]
    erev = []
    for section in cell_sections:
        reversals = {f"e{ion}": mV for ion, mV in conditions.reversals_mV.items()}
        reversals |= {name: mV for (name, part), mV in values.items() if part == section and reversal_of(name, known)}
        others = {n: mV for n, mV in reversals.items() if _has_reversal(f"{n}.{section}", mechanisms, known)}
        both = {name: reversals[name] for name in ("ena", "ek")}
        erev.append({"section": section, **both, **others})
    content = {
        "passive": [{"ra": values[("Ra", "soma")]}] if ("Ra", "soma") in values else [{}],
        "fitting": [{"junction_potential": -junction_potential_mV, "sweeps": list(sweeps)}],
        "conditions": [{"celsius": conditions.celsius, "erev": erev, "v_init": conditions.v_init_mV}],
        "genome": genome,
    }
    content = ({"remark": remark} if remark else {}) | content
    path = Path(path)
    try:
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: the fit file cannot be written ({error.strerror}).") from error


def _by_section(
    parameters: Mapping[str, float],
    mechanisms: Mapping[str, Sequence[str]],
    sections: Sequence[str],
    known: Mapping[str, Mechanism],
) -> dict[tuple[str, str], float]:
    """Return (name, section) -> value for each section, with defaults of mechanisms that have no parameter."""
    values: dict[tuple[str, str], float] = {}
    for single in (False, True):  # a single section's value replaces that of all
        for full_name, value in parameters.items():
            name, _, section = full_name.rpartition(".")
            if (section != "all") == single:
                values |= {(name, s): value for s in (sections if section == "all" else (section,))}
    for section in sections:
        for mechanism in (*mechanisms.get("all", ()), *mechanisms.get(section, ())):
            defaults = {f"{p}_{mechanism}": v for p, v in known[mechanism].parameters.items()}
            if not any((name, section) in values for name in defaults):
                values |= {(name, section): value for name, value in defaults.items()}
    return values

"""Build a BluePyOpt cell model from a morphology, mechanisms, parameters and their distributions."""

import ast
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.morphology import SECTIONS
from neurofleet.neurosim.mechanisms import MECHANISMS, Mechanism

if TYPE_CHECKING:
    from bluepyopt.ephys.models import CellModel
    from bluepyopt.ephys.parameters import NrnParameter

    from neurofleet.neurosim.cells.cell_morphology import CellMorphology

UNIFORM = "uniform"

FIXED_STEP_MS = 0.05
"""Of second order, as exact as CVODE at its default tolerance. For currents that change at every sample, where CVODE
would start anew each time."""

_FUNCTIONS = ("exp", "log", "log10", "sqrt", "sin", "cos")
_ARITHMETIC = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Load,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.USub,
)


def bluepyopt_distribution(expression: str) -> str:
    """Return an expression in ``distance`` and ``value`` in the notation of BluePyOpt's distance scaler.

    BluePyOpt evaluates the result as Python and writes it into hoc, so only arithmetic that both have is allowed.

    Parameters
    ----------
    expression : str
        Numbers, ``value`` (the parameter), ``distance`` (um from the middle of the soma), + - * /,
        parentheses and the functions exp, log, log10, sqrt, sin, cos. BluePyOpt's braces and ``math.`` are
        allowed.

    Raises
    ------
    InputError
        The expression holds anything else, or no ``value``.
    """
    fault = InputError(
        "distribution: expected `uniform` or an expression in `value` and `distance` with + - * / and the "
        f"functions {', '.join(_FUNCTIONS)}, found {expression!r}"
    )
    try:
        tree = ast.parse(re.sub(r"[{}]|\bmath\.", "", expression).strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise fault from error
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    variables = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            allowed = len(node.args) == 1 and not node.keywords
        elif isinstance(node, ast.Name) and id(node) in calls:
            allowed = node.id in _FUNCTIONS
        elif isinstance(node, ast.Name):
            allowed = node.id in ("value", "distance")
            variables.add(node.id)
        elif isinstance(node, ast.Constant):
            allowed = type(node.value) in (int, float)
        else:
            allowed = isinstance(node, _ARITHMETIC)
        if not allowed:
            raise fault
    if "value" not in variables:
        raise fault
    text = re.sub(rf"\b({'|'.join(_FUNCTIONS)})\(", r"math.\1(", ast.unparse(tree))
    return re.sub(r"\b(value|distance)\b", r"{\1}", text)


SECTION_LISTS = {"all": "all", "soma": "somatic", "axon": "axonal", "dend": "basal", "apic": "apical"}
SECTION_PARAMETERS = ("cm", "Ra")


@dataclass(frozen=True)
class CellParameter:
    """A free parameter of a cell.

    Parameters
    ----------
    name : str
        As NEURON spells it: ``cm`` (uF/cm2), ``Ra`` (ohm cm), ``gbar_NaTa_t`` (S/cm2), ``e_pas`` (mV) ...
    section : {"soma", "axon", "dend", "apic", "all"}
    lower, upper : float
        Bounds of the search.
    distribution : str
        ``uniform``, or an expression in ``value`` (the parameter) and ``distance`` (path distance from the
        middle of the soma in um): ``(-0.8696 + 2.087*exp(0.0031*distance))*value``.
    """

    name: str
    section: str
    lower: float
    upper: float
    distribution: str = UNIFORM

    @property
    def full_name(self) -> str:
        """Name and section, as in ``gbar_NaTa_t.axon``."""
        return f"{self.name}.{self.section}"


@dataclass(frozen=True)
class Accuracy:
    """How exactly an evaluation is integrated.

    Parameters
    ----------
    atol : float
        CVODE's absolute tolerance (NEURON's default is 1e-3).
    dense : bool
        Record at fixed times, closely where the current changes, rather than where CVODE happens to step.
    """

    atol: float = 1e-3
    dense: bool = False


@dataclass(frozen=True)
class Conditions:
    """Conditions of a simulation: temperature in degrees Celsius, potentials in mV.

    `ena_mV` and `ek_mV` are set wherever there is a sodium or potassium channel, `other_reversals_mV` (ion -> reversal
    potential) wherever a mechanism reads them.
    """

    celsius: float = 34.0
    v_init_mV: float = -80.0
    ena_mV: float = 53.0
    ek_mV: float = -107.0
    other_reversals_mV: Mapping[str, float] = field(default_factory=dict)

    @property
    def reversals_mV(self) -> dict[str, float]:
        """Ion -> reversal potential."""
        return {"na": self.ena_mV, "k": self.ek_mV, **self.other_reversals_mV}


def build_cell_model(
    name: str,
    morphology: "CellMorphology",
    mechanisms: Mapping[str, Sequence[str]],
    parameters: Sequence[CellParameter],
    fixed: Mapping[str, float],
    conditions: Conditions,
    known: Mapping[str, Mechanism] = MECHANISMS,
    distributions: Mapping[str, str] | None = None,
) -> "CellModel":
    """Return a cell as a BluePyOpt ``CellModel``.

    Parameters
    ----------
    name : str
        Name of the cell. Any text; what hoc does not allow in a name is replaced.
    morphology : CellMorphology
    mechanisms : mapping
        Section -> names of the mechanisms inserted there.
    parameters : sequence of CellParameter
        The free parameters, named ``gbar_NaTa_t.axon`` in the model.
    fixed : mapping
        Full name -> value of the frozen parameters.
    conditions : Conditions
    known : mapping
        Mechanisms by name, where the user has added some.
    distributions : mapping, optional
        Full name -> distribution of fixed parameters that are not uniform.

    Returns
    -------
    bluepyopt.ephys.models.CellModel
        Parameters of ``all`` come first, so that one of a single section overrides them there.

    Raises
    ------
    InputError
        An unknown mechanism, parameter or section (with the nearest name), a parameter of a mechanism that is
        not inserted there or that is given twice, a lower bound that is not below the upper one, or a
        distribution that is not an expression as above.
    """
    from bluepyopt.ephys.models import CellModel

    check_cell(mechanisms, parameters, fixed, known)
    free = {parameter.full_name: parameter for parameter in parameters}
    spread = {parameter.full_name: parameter.distribution for parameter in parameters} | dict(distributions or {})
    reversal = {
        full_name: value
        for full_name, value in _reversal_potentials(mechanisms, conditions, known).items()
        if full_name not in free | dict(fixed)
    }
    values: dict[str, CellParameter | float] = {**free, **fixed, **reversal}
    order = sorted(values, key=lambda full_name: not full_name.endswith(".all"))  # otherwise in the order given
    return CellModel(
        name=hoc_name(name),
        morph=morphology,
        mechs=_bluepyopt_mechanisms(mechanisms),
        params=[
            *_global_parameters(conditions),
            *(_bluepyopt_parameter(n, values[n], spread.get(n, UNIFORM), mechanisms, known) for n in order),
        ],
    )


def hoc_name(name: str) -> str:
    """Return `name` with what hoc and BluePyOpt do not allow in a template name replaced."""
    allowed = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return allowed if re.match(r"[A-Za-z]", allowed) else f"cell_{allowed}"


def check_cell(
    mechanisms: Mapping[str, Sequence[str]],
    parameters: Sequence[CellParameter],
    fixed: Mapping[str, float],
    known: Mapping[str, Mechanism] = MECHANISMS,
) -> None:
    """Raise one `InputError` with every fault of a cell's mechanisms and parameters; needs no NEURON."""
    faults = []
    there: dict[str, list[str]] = {}
    for section, names in mechanisms.items():
        faults += _unknown(section, SECTION_LISTS, f"mechanisms: section {section!r}")
        for name in names:
            there.setdefault(name, []).append(section)
    for name, sections in there.items():
        faults += _unknown(name, known, f"mechanisms: {', '.join(sections)}: mechanism {name!r}")
    lacking = tuple(f"_{name}" for name in there if name not in known)
    seen: set[str] = set()
    for full_name in [*(parameter.full_name for parameter in parameters), *fixed]:
        if full_name in seen:
            faults.append(f"parameter {full_name} is given twice, expected once, free or fixed")
        seen.add(full_name)
        if not full_name.rpartition(".")[0].endswith(lacking):
            faults += _parameter_faults(full_name, mechanisms, known)
    for parameter in parameters:
        if not parameter.lower < parameter.upper:
            faults.append(
                f"parameter {parameter.full_name}: expected a lower bound below the upper one, found "
                f"[{parameter.lower:g}, {parameter.upper:g}]"
            )
        if parameter.distribution != UNIFORM and is_section_parameter(parameter.name, known):
            faults.append(
                f"parameter {parameter.full_name}: {parameter.name} belongs to whole sections, only uniform is possible"
            )
        elif parameter.distribution != UNIFORM:
            try:
                bluepyopt_distribution(parameter.distribution)
            except InputError as error:
                faults.append(f"parameter {parameter.full_name}: {error}")
    if faults:
        raise InputError("; ".join(faults) + ".")


def _parameter_faults(
    full_name: str, mechanisms: Mapping[str, Sequence[str]], known: Mapping[str, Mechanism]
) -> list[str]:
    name, _, section = full_name.rpartition(".")
    if not name:
        return [f"parameter {full_name!r}: expected a name and a section, as in cm.soma"]
    if section not in SECTION_LISTS:
        return _unknown(section, SECTION_LISTS, f"parameter {full_name!r}: section {section!r}")
    if (ion := reversal_of(name, known)) is not None:
        if section == "all" and any(has_ion(part, ion, mechanisms, known) for part in SECTIONS):
            return []  # set where the ion is
        without = [part for part in _parts(section, mechanisms) if not has_ion(part, ion, mechanisms, known)]
        return [f"parameter {full_name}: no mechanism in {', '.join(without)} uses the ion {ion}"] if without else []
    if name in SECTION_PARAMETERS:
        return []
    names = {f"{parameter}_{m.name}": m.name for m in known.values() for parameter in m.parameters}
    if name not in names:
        reversals = {f"e{ion}" for mechanism in known.values() for ion in mechanism.uses}
        return _unknown(name, {*names, *SECTION_PARAMETERS, *reversals}, f"parameter {full_name}: {name!r}")
    lacking = [part for part in _parts(section, mechanisms) if names[name] not in _inserted(part, mechanisms)]
    if lacking:
        return [f"parameter {full_name}: the mechanism {names[name]} is not inserted in {', '.join(lacking)}"]
    return []


def reversal_of(name: str, known: Mapping[str, Mechanism]) -> str | None:
    """Return the ion whose reversal potential a parameter is, such as ``ek``; None for any other parameter."""
    ion = name[1:]
    return ion if name.startswith("e") and any(ion in mechanism.uses for mechanism in known.values()) else None


def is_section_parameter(name: str, known: Mapping[str, Mechanism]) -> bool:
    """Return whether a parameter has one value for a whole section."""
    return name in SECTION_PARAMETERS or reversal_of(name, known) is not None


def has_ion(section: str, ion: str, mechanisms: Mapping[str, Sequence[str]], known: Mapping[str, Mechanism]) -> bool:
    """Return whether a mechanism of a section uses an ion."""
    return any(ion in known[name].uses for name in _inserted(section, mechanisms) if name in known)


def _unknown(name: str, names: Iterable[str], what: str) -> list[str]:
    """Return a fault if `name` is none of `names`, with the nearest of them."""
    names = sorted(names)
    if name in names:
        return []
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(names)}"
    return [f"{what} does not exist; {hint}"]


def _parts(section: str, mechanisms: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the sections that a parameter of `section` is set in; not every cell has an apical tree."""
    return [s for s in SECTIONS if section == s or (section == "all" and (s != "apic" or s in mechanisms))]


def _inserted(section: str, mechanisms: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the mechanisms of one section, with those of all sections."""
    return {*mechanisms.get(section, ()), *mechanisms.get("all", ())}


def _reversal_potentials(
    mechanisms: Mapping[str, Sequence[str]], conditions: Conditions, known: Mapping[str, Mechanism]
) -> dict[str, float]:
    """Return ``ena.soma`` and the like for each section of the model whose channels read them."""
    values: dict[str, float] = {}
    for section in SECTIONS:
        if section not in mechanisms and "all" not in mechanisms:
            continue
        ions = {ion for name in _inserted(section, mechanisms) for ion in known[name].reversal_ions}
        values |= {f"e{ion}.{section}": mV for ion, mV in conditions.reversals_mV.items() if ion in ions}
    return values


NEURONS_REVERSALS_MV = {"na": 50.0, "k": -77.0, "ca": 132.458}
"""What NEURON begins with; 0 mV for any other ion."""


def reversal_notes(
    mechanisms: Mapping[str, Sequence[str]],
    given: Iterable[str],
    conditions: Conditions,
    known: Mapping[str, Mechanism] = MECHANISMS,
) -> list[str]:
    """Return a sentence on each reversal potential or concentration that nobody gives, and on each given in vain.

    Parameters
    ----------
    mechanisms : mapping
        Section -> names of its mechanisms.
    given : iterable of str
        Full names of the parameters of the cell.
    conditions : Conditions
    known : mapping
        Mechanisms by name.
    """
    names_given = set(given)
    missing: dict[str, dict[str, list[str]]] = {}  # variable of an ion -> mechanism that reads it -> sections
    in_vain: dict[tuple[str, str], list[str]] = {}  # ion and mechanism -> sections
    for section in _parts("all", mechanisms):
        there = [known[name] for name in sorted(_inserted(section, mechanisms))]
        for ion in sorted({ion for mechanism in there for ion in mechanism.uses}):
            concentrations = {f"{ion}i", f"{ion}o"}
            of_concentrations = [m for m in there if ion in m.uses and concentrations & m.uses[ion].variables]
            own = bool({f"e{ion}.{section}", f"e{ion}.all"} & names_given)
            if any(ion in m.reversal_ions for m in there) and (own or ion in conditions.reversals_mV):
                for mechanism in of_concentrations[:1]:
                    in_vain.setdefault((ion, mechanism.name), []).append(section)
            written = {name for m in there for name in m.written_concentrations}
            given_by_neuron = concentrations if ion in NEURONS_REVERSALS_MV else set()
            set_here = written | given_by_neuron
            if of_concentrations or own or ion in conditions.reversals_mV:
                set_here |= {f"e{ion}"}
            for mechanism in there:
                read = mechanism.uses[ion].read if ion in mechanism.uses else ()
                for variable in sorted({*concentrations, f"e{ion}"}.intersection(read) - set_here):
                    missing.setdefault(variable, {}).setdefault(mechanism.name, []).append(section)
    notes = [_missing_note(variable, readers, known) for variable, readers in missing.items()]
    for (ion, name), sections in in_vain.items():
        notes.append(
            f"the given e{ion} has no effect in {', '.join(sections)}: {name} uses the concentrations of {ion} there, "
            "and NEURON calculates the reversal potential from them"
        )
    return notes


def _missing_note(variable: str, readers: Mapping[str, Sequence[str]], known: Mapping[str, Mechanism]) -> str:
    who = " and ".join(f"{name} (in {', '.join(sections)})" for name, sections in readers.items())
    if not variable.startswith("e"):
        return (
            f"{who} reads {variable}, which no mechanism writes: NEURON's own 1 mM counts. Set it in the INITIAL block "
            f"of a mechanism that writes {variable}"
        )
    default = NEURONS_REVERSALS_MV.get(variable[1:], 0.0)
    note = (
        f"{who} reads {variable}, which nobody gives: NEURON's own {default:g} mV counts. Give it as `{variable}_mV` "
        "under `conditions:` of the recipe"
    )
    for name in readers:
        if variable in known[name].without_effect:
            note += (
                f" (the {known[name].without_effect[variable]:g} mV in the PARAMETER block of {name} has no effect: "
                "NEURON takes the reversal potential of an ion from the section)"
            )
    return note


def _bluepyopt_mechanisms(mechanisms: Mapping[str, Sequence[str]]) -> list:
    from bluepyopt.ephys.mechanisms import NrnMODMechanism

    return [
        NrnMODMechanism(name=f"{name}.{section}", suffix=name, locations=[_location(section)])
        for section, names in mechanisms.items()
        for name in names
    ]


def _global_parameters(conditions: Conditions) -> list["NrnParameter"]:
    from bluepyopt.ephys.parameters import NrnGlobalParameter

    values = {"celsius": conditions.celsius, "v_init": conditions.v_init_mV}
    return [NrnGlobalParameter(name=n, param_name=n, frozen=True, value=v) for n, v in values.items()]


def _bluepyopt_parameter(
    full_name: str,
    what: "CellParameter | float",
    distribution: str,
    mechanisms: Mapping[str, Sequence[str]],
    known: Mapping[str, Mechanism],
) -> "NrnParameter":
    from bluepyopt.ephys.parameters import NrnRangeParameter, NrnSectionParameter
    from bluepyopt.ephys.parameterscalers import NrnSegmentSomaDistanceScaler

    name, _, section = full_name.rpartition(".")
    ion = reversal_of(name, known)
    sections = [section]
    if section == "all" and ion is not None:
        sections = [part for part in SECTIONS if has_ion(part, ion, mechanisms, known)]
    options: dict[str, Any] = {"param_name": name, "locations": [_location(part) for part in sections]}
    if isinstance(what, CellParameter):
        options["bounds"] = [what.lower, what.upper]
    else:
        options |= {"frozen": True, "value": what}
    if distribution != UNIFORM:
        options["value_scaler"] = NrnSegmentSomaDistanceScaler(distribution=bluepyopt_distribution(distribution))
    kind = NrnSectionParameter if is_section_parameter(name, known) else NrnRangeParameter
    return kind(name=full_name, **options)


def _location(section: str):
    from bluepyopt.ephys.locations import NrnSeclistLocation

    return NrnSeclistLocation(name=f"every {section}", seclist_name=SECTION_LISTS[section])

"""Recipes: the mechanisms, parameters with bounds, and e-features of each stage of a fit."""

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from neurofleet.errors import InputError, did_you_mean
from neurofleet.faults import faults
from neurofleet.neurosim.cells.cell_model import Conditions
from neurofleet.neurosim.mechanisms import MECHANISMS, Mechanism
from neurofleet.yaml_files import read_yaml_file

Section = Literal["soma", "axon", "dend", "apic", "all"]
BUILT_IN = ("all-active-spiny", "all-active-aspiny", "perisomatic-f6", "perisomatic-f12", "demo")
BY_DENDRITE = {
    "all-active": {"spiny": "all-active-spiny", "aspiny": "all-active-aspiny"},
    "perisomatic": {"spiny": "perisomatic-f6", "aspiny": "perisomatic-f12"},
}
"""Recipes whose channels depend on the dendrite type."""
HOW_TO_ADD_MECHANISMS = (
    " A mechanism of your own comes from its mod file: name the folder of it with `mechanisms:` in the job"
    " file, and the mechanism by its SUFFIX."
)


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"bounds are [low, high] with low < high, found {list(bounds)}")
    return bounds


def _stage_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name, re.ASCII):
        raise ValueError("expected letters, digits and `_`, the first a letter")
    return name


Bounds = Annotated[tuple[float, float], AfterValidator(_check_order)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecipeConditions(_Strict):
    """Simulation conditions (temperature in degrees Celsius, potentials in mV).

    Reversal potentials of other ions than sodium and potassium are given in the same way: ``ehcn_mV``.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Annotated[float, Field(allow_inf_nan=False)]]

    celsius: float = 34.0
    v_init_mV: float = -80.0
    ena_mV: float = 53.0
    ek_mV: float = -107.0

    @model_validator(mode="after")
    def _other_keys_are_reversal_potentials(self) -> "RecipeConditions":
        for key in self.__pydantic_extra__:
            if not _REVERSAL.fullmatch(key):
                known = [*RecipeConditions.model_fields, f"{key}_mV"]
                raise ValueError(
                    f"unknown key {key!r}{did_you_mean(key, known)}; the reversal potential of an ion ION is eION_mV"
                )
        return self

    def conditions(self) -> Conditions:
        """Return them as a cell is built with."""
        others = {key[1 : -len("_mV")]: value for key, value in self.__pydantic_extra__.items()}
        return Conditions(self.celsius, self.v_init_mV, self.ena_mV, self.ek_mV, others)


_REVERSAL = re.compile(r"e[A-Za-z]\w*_mV", re.ASCII)


class Stage(_Strict):
    """One stage: what it adds to the stages before it, and what it is scored on.

    `targets` says which sweeps: silent steps, the two strongest with spikes, or the one of a perisomatic
    model. `hand_over` has tolerances of single parameters in place of the recipe's, as `stage_bounds` takes them;
    `block_check`, of perisomatic targets, adds a stronger step that must not be blocked.
    """

    name: Annotated[str, AfterValidator(_stage_name)]
    targets: Literal["subthreshold", "training", "perisomatic"]
    fixed: dict[str, dict[Section, float]] = {}
    mechanisms: dict[Section, list[str]] = {}
    parameters: dict[str, dict[Section, Bounds]] = {}
    hand_over: dict[str, Annotated[float, Field(ge=0)] | None] = {}
    block_check: bool = False
    distributions: dict[str, str] = {}
    features: Annotated[list[str], Field(min_length=1)]

    @model_validator(mode="after")
    def _checks_block_of_one_step(self) -> "Stage":
        if self.block_check and self.targets != "perisomatic":
            raise ValueError("block_check is of `targets: perisomatic`; others name the e-feature depol_block")
        return self

    def given(self) -> Iterator[tuple[str, str]]:
        """Yield (parameter, section) of everything that the stage frees or fixes."""
        for parameters in (self.parameters, self.fixed):
            for name, sections in parameters.items():
                for section in sections:
                    yield name, section

    def bounds(self) -> Iterator[tuple[str, str, tuple[float, float]]]:
        """Yield (parameter, section, bounds) in the order of the file."""
        for name, sections in self.parameters.items():
            for section, bounds in sections.items():
                yield name, section, bounds


class Recipe(_Strict):
    """A staged fit: passive, then the h-channel, then all active channels, or stages that the user wrote."""

    name: str
    axon: Literal["stub", "legacy-stub", "legacy-stub-60um", "full"] = "stub"
    conditions: RecipeConditions = Field(default_factory=lambda: RecipeConditions.model_validate({}))
    hand_over: Annotated[float, Field(ge=0)] | None = 0.5
    stages: Annotated[list[Stage], Field(min_length=1)]

    @model_validator(mode="after")
    def _begins_with_parameters(self) -> "Recipe":
        if not self.stages[0].parameters:
            raise ValueError(f"stage {self.stages[0].name}, the first one, needs `parameters:` to search")
        return self

    def mechanisms_until(self, stage: int, has_apical: bool) -> dict[str, list[str]]:
        """Return section -> mechanisms of stage number `stage` and of the stages before it."""
        mechanisms: dict[str, list[str]] = {}
        for part in self.stages[: stage + 1]:
            for section, names in part.mechanisms.items():
                if section == "apic" and not has_apical:
                    continue
                names_there = mechanisms.setdefault(section, [])
                names_there.extend(name for name in names if name not in names_there)
        return mechanisms

    @property
    def mechanism_names(self) -> set[str]:
        """The mechanisms of all its stages."""
        return {name for stage in self.stages for names in stage.mechanisms.values() for name in names}

    def bounds_until(self, stage: int, has_apical: bool) -> dict[str, tuple[float, float]]:
        """Return full parameter name -> bounds, those of the stages before it first."""
        all_bounds: dict[str, tuple[float, float]] = {}
        for part in self.stages[: stage + 1]:
            for name, section, bounds in part.bounds():
                if section != "apic" or has_apical:
                    all_bounds[f"{name}.{section}"] = bounds
        return all_bounds

    def fixed_until(self, stage: int, has_apical: bool) -> dict[str, float]:
        """Return full parameter name -> value of the parameters that are not searched."""
        return {
            f"{name}.{section}": value
            for part in self.stages[: stage + 1]
            for name, sections in part.fixed.items()
            for section, value in sections.items()
            if section != "apic" or has_apical
        }

    def distributions_until(self, stage: int) -> dict[str, str]:
        """Return full parameter name -> distance-dependent distribution."""
        return {k: v for part in self.stages[: stage + 1] for k, v in part.distributions.items()}


def recipe_text(name: str) -> str:
    """Return the YAML of a built-in recipe; of one whose channels depend on the dendrite, that for spiny cells.

    Raises
    ------
    InputError
        There is none of this name.
    """
    chosen, first = name, ""
    if name in BY_DENDRITE:
        chosen, aspiny = BY_DENDRITE[name]["spiny"], BY_DENDRITE[name]["aspiny"]
        first = f"# {name} for spiny cells. For aspiny cells: neurofleet recipe {aspiny}\n"
    if chosen not in BUILT_IN:
        known = (*BY_DENDRITE, *BUILT_IN)
        raise InputError(f"No recipe is called {name!r}{did_you_mean(name, known)}. There are: {', '.join(known)}.")
    return first + (resources.files("neurofleet.neurosim") / "recipes" / f"{chosen}.yaml").read_text()


def built_in_recipes() -> dict[str, str]:
    """Return the name of each built-in recipe -> what it is, as its file begins."""
    return {name: re.split(r" \(|:", recipe_text(name).lstrip("# "), maxsplit=1)[0] for name in BUILT_IN}


def load_recipe(
    name: str,
    dendrite: str,
    folder: Path,
    known: "Mapping[str, Mechanism] | None" = None,
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> Recipe:
    """Load a built-in recipe by name, or the YAML file of a user.

    Parameters
    ----------
    name : str
        ``all-active`` or ``perisomatic`` (then `dendrite` chooses), one of `BUILT_IN`, or the path of a
        YAML file.
    dendrite : {"spiny", "aspiny"}
    folder : Path
        Where a relative path starts.
    known : mapping, optional
        Mechanisms by name, where the user has added some.
    unfit : mapping, optional
        Name -> why a mechanism that the user added cannot be in a recipe.

    Raises
    ------
    InputError
        All faults of the file at once, with their places and the nearest known names.
    """
    chosen = BY_DENDRITE[name][dendrite] if name in BY_DENDRITE else name
    if chosen in BUILT_IN:
        return Recipe.model_validate(yaml.safe_load(recipe_text(chosen)))
    path = folder / name
    if not path.is_file():
        raise InputError(
            f"recipe: expected {', '.join(BY_DENDRITE)} or the path of a YAML file, found {name!r}, and "
            f"there is no file {path}. Write `recipe: all-active`, or name a recipe file of your own: `neurofleet "
            "recipe all-active > my-recipe.yaml` writes one to begin with."
        )
    content = read_yaml_file(path)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {faults(error, Recipe, content=content)}") from error
    check_recipe_names(recipe, str(path), known, unfit)
    return recipe


def check_recipe_names(
    recipe: Recipe,
    source: str,
    known: "Mapping[str, Mechanism] | None" = None,
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raise `InputError` for every mechanism, parameter or ion of `recipe` that does not exist or cannot be used."""
    known = MECHANISMS if known is None else known
    problems = []
    seen: dict[str, set[str]] = {}
    unknown = recipe.mechanism_names - (known.keys() - unfit.keys())
    for stage in recipe.stages:
        for part, names in stage.mechanisms.items():
            for name in names:
                if name in unfit:
                    problems.append(f"stage {stage.name}: mechanism {name} {unfit[name]}")
                elif name not in known:
                    problems.append(f"stage {stage.name}: no mechanism {name!r}{did_you_mean(name, known)}")
                seen.setdefault(part, set()).add(name)
        for name, section in stage.given():
            if name in ("cm", "Ra") or any(name.endswith(f"_{mechanism}") for mechanism in unknown):
                continue
            there = {mechanism for s in _covering(section) for mechanism in seen.get(s, ())}
            if fault := _parameter_fault(name, section, there, known):
                problems.append(f"stage {stage.name}: {fault}")
    ions = sorted({ion for name in recipe.mechanism_names & known.keys() for ion in known[name].ions})
    for ion in recipe.conditions.conditions().other_reversals_mV if not unknown else ():
        if ion not in ions:
            key, keys = f"e{ion}_mV", [f"e{other}_mV" for other in ions]
            problems.append(
                f"conditions: {key}: no mechanism of the recipe uses an ion {ion}{did_you_mean(key, keys)}; they use "
                f"{', '.join(ions) or 'none'}"
            )
    if problems:
        how = HOW_TO_ADD_MECHANISMS if unknown - unfit.keys() else ""
        raise InputError(f"{source}: " + "; ".join(dict.fromkeys(problems)) + "." + how)


def _parameter_fault(name: str, section: str, there: set[str], known: "Mapping[str, Mechanism]") -> str:
    """Return why a recipe cannot set a parameter in a section with the mechanisms `there`; empty if it can."""
    owner = next((m for m in known if name.endswith(f"_{m}") and name[: -len(m) - 1] in known[m].parameters), None)
    if owner is not None:
        return "" if owner in there else f"parameter {name}.{section} needs the mechanism {owner} in {section}"
    ion = name[1:]
    if name.startswith("e") and any(ion in mechanism.ions for mechanism in known.values()):
        uses_it = any(ion in known[mechanism].ions for mechanism in there if mechanism in known)
        return "" if uses_it else f"parameter {name}.{section} needs a mechanism that uses the ion {ion} in {section}"
    for mechanism in known.values():
        variable = name.removesuffix(f"_{mechanism.name}")
        if variable == name:
            continue
        if variable in mechanism.shared:
            return (
                f"{variable} of {mechanism.name} is GLOBAL, not RANGE: NEURON keeps one value of it for all sections, "
                "and a recipe sets parameters of single sections. Declare it as RANGE (and not as GLOBAL) in the mod "
                "file, or set its value there"
            )
        if variable in mechanism.calculated:
            return f"{variable} of {mechanism.name} is no PARAMETER: the mechanism calculates it itself"
    names = [f"{p}_{m}" for m, mechanism in known.items() for p in mechanism.parameters]
    return f"no parameter {name!r}{did_you_mean(name, names)}"


def _covering(section: str) -> tuple[str, ...]:
    """Return the sections whose mechanisms `section` may rely on."""
    return ("soma", "axon", "dend", "apic", "all") if section == "all" else (section, "all")

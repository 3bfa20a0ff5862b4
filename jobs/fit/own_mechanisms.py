"""The mechanisms that a job brings along: the mod files of its folder that its recipe names."""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UsageError
from jobs.fit.spec import FitSpec
from neurosim.errors import InputError
from neurosim.mechanisms import UserMechanisms

if TYPE_CHECKING:
    from neurosim.recipe import Recipe


def job_mechanisms(spec: FitSpec, folder: Path) -> UserMechanisms:
    """Return those of the folder `mechanisms:` that the recipe names, for whatever kind of dendrite.

    They are the same for all cells of the job, so that one process can simulate several of them.

    Raises
    ------
    UsageError
        The folder cannot be used, holds nothing that the recipe names, or a mechanism that NEURON has
        built in and the recipe names.
    InputError
        The recipe cannot be used.
    """
    if spec.mechanisms is None:
        return UserMechanisms()
    from neurosim.recipe import BY_DENDRITE, load_recipe

    try:
        all_of_them = UserMechanisms.read(folder / spec.mechanisms)
    except InputError as error:
        raise UsageError(f"mechanisms: {error}") from error
    known = all_of_them.known
    dendrites = list(BY_DENDRITE.get(spec.recipe, ["spiny"]))
    recipes = [load_recipe(spec.recipe, dendrite, folder, known) for dendrite in dendrites]
    named = {name for recipe in recipes for name in recipe.mechanism_names}
    own = all_of_them.only(named)
    if own.reserved:
        raise UsageError(
            f"mechanisms: {spec.mechanisms} declares the SUFFIX {', '.join(own.reserved)}, which the recipe "
            f"{spec.recipe} names and which is built into NEURON, where no other can take its place. Remove "
            "the file to have NEURON's own, or give it another SUFFIX and name that in the recipe."
        )
    if not own.sources:
        raise UsageError(
            f"mechanisms: the recipe {spec.recipe} names no mechanism of {spec.mechanisms} "
            f"({', '.join(all_of_them.sources)}), but {', '.join(sorted(named))}. Name them in a recipe of "
            "your own (`recipe: FILE.yaml`), or leave `mechanisms:` out."
        )
    return own


def said_of(own: UserMechanisms, recipe: "Recipe", folder: Path | None) -> tuple[str, ...]:
    """Return what is to be said of a cell whose recipe names some of the job's mechanisms, or none."""
    used = own.only(recipe.mechanism_names)
    if own.sources and not used.sources:
        return (f"none of the mechanisms in {folder} is named by its recipe {recipe.name}",)
    if used.replacing:
        one = len(used.replacing) == 1
        is_or_are = "mechanism {} is" if one else "mechanisms {} are"
        return (f"{is_or_are.format(', '.join(used.replacing))} the job's own, from {folder}",)
    return ()

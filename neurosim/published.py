"""Bounds that were published with a cell's targets (``parameters.json`` of the released workflow)."""

import json
from pathlib import Path

from neurosim.errors import InputError

SECTION_OF_LIST = {"somatic": "soma", "axonal": "axon", "basal": "dend", "apical": "apic", "all": "all"}


def read_bounds(folder: Path) -> dict[str, tuple[float, float]]:
    """Return full parameter name -> bounds of ``folder/parameters.json``; empty when there is no such file.

    Raises
    ------
    InputError
        When the file is not what the released workflow writes, or has bounds upside down.
    """
    path = folder / "parameters.json"
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text())
        found = {
            f"{row['param_name']}.{SECTION_OF_LIST[row['sectionlist']]}": tuple(map(float, row["bounds"]))
            for row in rows
            if "bounds" in row
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected a list of {{param_name, sectionlist, bounds}}, found something else "
            f"({error!r}). Mend the file, or remove it to use the recipe's bounds."
        ) from error
    for name, bounds in found.items():
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise InputError(f"{path}: {name}: bounds are [low, high] with low < high, found {list(bounds)}.")
    return found  # type: ignore[return-value]

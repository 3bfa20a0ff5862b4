"""What is known of a mechanism without NEURON: parameters, defaults and ions, read from its NMODL text."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from neurosim.errors import InputError

MOD_FOLDER = Path(__file__).with_name("mod")


@dataclass(frozen=True)
class Mechanism:
    """A density mechanism.

    Parameters
    ----------
    name : str
        Its NMODL suffix.
    parameters : mapping
        Range parameter -> default value, in the mechanism's own units (``gbar`` in S/cm2).
    ions : tuple of str
        Ions whose current or concentration it reads or writes.
    reversal_ions : tuple of str
        Those of them whose reversal potential it reads.
    """

    name: str
    parameters: Mapping[str, float]
    ions: tuple[str, ...] = ()
    reversal_ions: tuple[str, ...] = ()


def read_mechanism(path: Path) -> Mechanism:
    """Read name, range parameters and ions from the NMODL file `path`.

    Raises
    ------
    InputError
        The file is missing, or declares no ``SUFFIX`` (point processes are not section mechanisms).
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise InputError(
            f"{path}: expected an NMODL file, but it cannot be read ({error.strerror})."
        ) from error
    text = re.sub(r"\bCOMMENT\b.*?\bENDCOMMENT\b", "", text, flags=re.DOTALL)
    text = re.sub(r"\bVERBATIM\b.*?\bENDVERBATIM\b", "", text, flags=re.DOTALL)
    text = re.sub(r"[:?].*", "", re.sub(r"^\s*TITLE.*", "", text, flags=re.MULTILINE))
    declared = _block(text, "NEURON")
    suffix = re.search(r"\bSUFFIX\s+(\w+)", declared)
    if suffix is None:
        raise InputError(
            f"{path}: expected a NEURON block with a SUFFIX (a density mechanism), found none. "
            "Point processes and artificial cells cannot be inserted by a recipe."
        )
    ranges = {
        name for names in re.findall(r"\bRANGE\s+([\w\s,]+?)(?=\b[A-Z_]{4,}\b|$)", declared)
        for name in re.findall(r"\w+", names)
    }  # fmt: skip
    values = re.findall(r"(\w+)\s*=\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)", _block(text, "PARAMETER"))
    uses = re.findall(r"\bUSEION\s+(\w+)((?:\s+(?:READ|WRITE)\s+[\w\s,]+?(?=\b[A-Z_]{4,}\b|$))*)", declared)
    return Mechanism(
        name=suffix.group(1),
        parameters={name: float(value) for name, value in values if name in ranges},
        ions=tuple(ion for ion, _ in uses),
        reversal_ions=tuple(ion for ion, how in uses if re.search(rf"\be{ion}\b", how)),
    )


def _block(text: str, keyword: str) -> str:
    """Return what stands between the braces of the block `keyword`."""
    found = re.search(rf"\b{keyword}\s*\{{(.*?)\}}", text, flags=re.DOTALL)
    return found.group(1) if found else ""


def describe(paths: Iterable[Path]) -> dict[str, Mechanism]:
    """Return name -> `Mechanism` of NMODL files, no name twice."""
    found: dict[str, Mechanism] = {}
    for path in paths:
        mechanism = read_mechanism(path)
        if mechanism.name in found:
            raise InputError(
                f"{path}: expected a SUFFIX of its own, but another file declares {mechanism.name} too."
            )
        found[mechanism.name] = mechanism
    return found


OWN_SOURCES: tuple[Path, ...] = tuple(sorted(MOD_FOLDER.glob("*.mod")))
BUILT_INTO_NEURON = (
    Mechanism("pas", {"g": 1e-3, "e": -70.0}),
    Mechanism("hh", {"gnabar": 0.12, "gkbar": 0.036, "gl": 3e-4, "el": -54.3}, ("na", "k"), ("na", "k")),
)
MECHANISMS: dict[str, Mechanism] = {m.name: m for m in BUILT_INTO_NEURON} | describe(OWN_SOURCES)

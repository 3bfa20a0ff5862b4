"""Parameters, defaults and ions of mechanisms, read from their NMODL text without NEURON."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from neurofleet.errors import InputError

MOD_FOLDER = Path(__file__).with_name("mod")
NO_MECHANISM = "nothing"  # the SUFFIX of files that have functions only
NEURON_KEYWORDS = frozenset(
    "SUFFIX POINT_PROCESS ARTIFICIAL_CELL USEION READ WRITE VALENCE REPRESENTS NONSPECIFIC_CURRENT "
    "ELECTRODE_CURRENT RANGE GLOBAL POINTER BBCOREPOINTER EXTERNAL RANDOM THREADSAFE".split()
)


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
    mechanism = parse_mechanism(read_nmodl(path))
    if mechanism is None:
        raise InputError(
            f"{path}: expected a NEURON block with a SUFFIX (a density mechanism), found none. "
            "Point processes and artificial cells cannot be inserted by a recipe."
        )
    return mechanism


def read_nmodl(path: Path) -> str:
    """Return the text of an NMODL file, in UTF-8 or, as in old files, Latin-1.

    Raises
    ------
    InputError
        It cannot be read.
    """
    try:
        try:
            return path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            return path.read_text("latin-1")
    except OSError as error:
        raise InputError(f"{path}: expected an NMODL file, but it cannot be read ({error.strerror}).") from error


def parse_mechanism(text: str) -> Mechanism | None:
    """Return the density mechanism of an NMODL text; None for point processes and files of functions."""
    text = re.sub(r"\bCOMMENT\b.*?\bENDCOMMENT\b", "", text, flags=re.DOTALL)
    text = re.sub(r"\bVERBATIM\b.*?\bENDVERBATIM\b", "", text, flags=re.DOTALL)
    text = re.sub(r"[:?].*", "", re.sub(r"^\s*TITLE.*", "", text, flags=re.MULTILINE))
    declared = _declarations(text)
    name = next((words[0] for keyword, words in declared if keyword == "SUFFIX" and words), NO_MECHANISM)
    if name == NO_MECHANISM:
        return None
    ranges = {word for keyword, words in declared if keyword == "RANGE" for word in words}
    values = re.findall(
        r"\b([A-Za-z]\w*)\b(?:\s*=\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?))?",
        re.sub(r"\(.*?\)", "", _block(text, "PARAMETER")),  # without units
    )
    uses: dict[str, list[str]] = {}
    for keyword, words in declared:
        if keyword == "USEION":
            uses |= {ion: [] for ion in words[:1]}
        elif keyword in ("READ", "WRITE") and uses:
            uses[list(uses)[-1]] += words
    return Mechanism(
        name=name,
        parameters={name: float(value or 0.0) for name, value in values if name in ranges},
        ions=tuple(uses),
        reversal_ions=tuple(ion for ion, variables in uses.items() if f"e{ion}" in variables),
    )


def _declarations(text: str) -> list[tuple[str, list[str]]]:
    """Return the keywords of the NEURON block, each with the words that follow it."""
    declarations: list[tuple[str, list[str]]] = []
    for word in re.findall(r"\w+", _block(text, "NEURON")):
        if word in NEURON_KEYWORDS:
            declarations.append((word, []))
        elif declarations:
            declarations[-1][1].append(word)
    return declarations


def _block(text: str, keyword: str) -> str:
    """Return what stands between the braces of the block `keyword`."""
    match = re.search(rf"\b{keyword}\s*\{{(.*?)\}}", text, flags=re.DOTALL)
    return match.group(1) if match else ""


def describe(paths: Iterable[Path]) -> dict[str, Mechanism]:
    """Return name -> `Mechanism` of NMODL files; raise `InputError` where two have the same name."""
    mechanisms: dict[str, Mechanism] = {}
    for path in paths:
        mechanism = read_mechanism(path)
        if mechanism.name in mechanisms:
            raise InputError(f"{path}: expected a SUFFIX of its own, but another file declares {mechanism.name} too.")
        mechanisms[mechanism.name] = mechanism
    return mechanisms


PROJECT_SOURCES: tuple[Path, ...] = tuple(sorted(MOD_FOLDER.glob("*.mod")))
BUILT_INTO_NEURON = (
    Mechanism("pas", {"g": 1e-3, "e": -70.0}),
    Mechanism("hh", {"gnabar": 0.12, "gkbar": 0.036, "gl": 3e-4, "el": -54.3}, ("na", "k"), ("na", "k")),
)
MECHANISMS: dict[str, Mechanism] = {m.name: m for m in BUILT_INTO_NEURON} | describe(PROJECT_SOURCES)

"""Parameters, defaults, ions and included files of mechanisms, read from their NMODL text without NEURON."""

import codecs
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from neurofleet.errors import InputError

MOD_FOLDER = Path(__file__).with_name("mod")
NO_MECHANISM = "nothing"  # the SUFFIX of files that have functions only
DENSITY = "SUFFIX"
KINDS = (DENSITY, "POINT_PROCESS", "ARTIFICIAL_CELL")
NEURON_KEYWORDS = frozenset(
    "USEION READ WRITE VALENCE REPRESENTS NONSPECIFIC_CURRENT ELECTRODE_CURRENT RANGE GLOBAL POINTER "
    "BBCOREPOINTER EXTERNAL RANDOM THREADSAFE".split()
).union(KINDS)
OF_NEURON = frozenset("v t dt celsius diam area secondorder".split())
"""Variables that a mechanism may declare as PARAMETER, and that NEURON sets."""


@dataclass(frozen=True)
class IonUse:
    """The variables of an ion that a mechanism reads and writes: of ``k`` any of ``ek``, ``ik``, ``ki``, ``ko``."""

    read: tuple[str, ...] = ()
    written: tuple[str, ...] = ()

    @property
    def variables(self) -> set[str]:
        """Those that are read or written."""
        return {*self.read, *self.written}


@dataclass(frozen=True)
class Mechanism:
    """A density mechanism.

    Parameters
    ----------
    name : str
        Its NMODL suffix.
    parameters : mapping
        Range parameter -> default value, in the mechanism's own units (``gbar`` in S/cm2).
    uses : mapping
        Ion -> what of it is read and written.
    shared : tuple of str
        Parameters that are no range variables: NEURON has one value of each for all sections.
    calculated : tuple of str
        Range variables that are no parameters: the mechanism itself sets them.
    pointers : tuple of str
        POINTERs that its equations need. Those that only VERBATIM text uses, which may do without, are left out.
    without_effect : mapping
        Ion variable -> the value that PARAMETER gives it; NEURON takes that of the section instead.
    """

    name: str
    parameters: Mapping[str, float]
    uses: Mapping[str, IonUse] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    calculated: tuple[str, ...] = ()
    pointers: tuple[str, ...] = ()
    without_effect: Mapping[str, float] = field(default_factory=dict)

    @property
    def ions(self) -> tuple[str, ...]:
        """Ions whose current or concentration it reads or writes."""
        return tuple(self.uses)

    @property
    def reversal_ions(self) -> tuple[str, ...]:
        """Those of them whose reversal potential it reads."""
        return tuple(ion for ion, use in self.uses.items() if f"e{ion}" in use.read)

    @property
    def written_concentrations(self) -> tuple[str, ...]:
        """Concentrations that it writes, such as ``cai``."""
        return tuple(name for ion, use in self.uses.items() for name in use.written if name in (f"{ion}i", f"{ion}o"))


def read_mechanism(path: Path) -> Mechanism:
    """Read name, range parameters and ions from the NMODL file `path`.

    Raises
    ------
    InputError
        The file is missing, or declares no ``SUFFIX`` (point processes are not section mechanisms).
    """
    mechanism = parse_mechanism(read_with_includes(path).whole, path.stem)
    if mechanism is None:
        raise InputError(
            f"{path}: expected a NEURON block with a SUFFIX (a density mechanism), found none. "
            "Point processes and artificial cells cannot be inserted by a recipe."
        )
    return mechanism


def read_nmodl(path: Path) -> str:
    """Return the text of an NMODL file as NEURON's compiler takes it, which refuses all characters beyond ASCII.

    They are replaced where they have no meaning: in comments, and the micro sign in units.

    Raises
    ------
    InputError
        It cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected an NMODL file, but it cannot be read ({error.strerror}).") from error
    text = _decoded(content).replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii():
        return text
    text = text.translate({0xA0: " ", 0xB5: "u", 0x3BC: "u"})  # a space that does not break, and two kinds of mu
    return _COMMENTS.sub(lambda comment: re.sub(r"[^\x00-\x7f]", "_", comment.group()), text)


def _decoded(content: bytes) -> str:
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # as old files are


# A block ends with a line that begins with its last word, as in NEURON's compiler.
_COMMENTS = re.compile(r"\bCOMMENT\b(?s:.*?)^[ \t]*ENDCOMMENT\b|^[ \t]*TITLE\b.*|[:?].*", re.MULTILINE)
_VERBATIM = re.compile(r"\bVERBATIM\b(?s:.*?)^[ \t]*ENDVERBATIM\b", re.MULTILINE)
_COMMENTS_AND_VERBATIM = re.compile(f"{_COMMENTS.pattern}|{_VERBATIM.pattern}", re.MULTILINE)
_INCLUDES = re.compile(rf'{_COMMENTS_AND_VERBATIM.pattern}|\bINCLUDE\s*"(?P<file>[^"\n]*)"', re.MULTILINE)
_HEADERS = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)


def without_comments(text: str) -> str:
    """Return NMODL without comments, title and VERBATIM text."""
    return _COMMENTS_AND_VERBATIM.sub(" ", text)


@dataclass(frozen=True)
class Gathered:
    """An NMODL text with what it includes.

    Attributes
    ----------
    whole : str
        The text with each INCLUDE replaced by its file.
    included : dict
        Files that it includes, and C headers of its VERBATIM text that lie beside it: name, relative to the folder of
        the NMODL file as for NEURON's compiler, -> text.
    """

    whole: str
    included: dict[str, str]


def gather(text: str, find: Callable[[str], str | None]) -> Gathered:
    """Return an NMODL text with what it includes.

    Parameters
    ----------
    text : str
    find : callable
        Returns the text of a file beside it, None where there is no such file.

    Raises
    ------
    InputError
        An included file is not there, or lies outside the folder, or includes itself.
    """
    included: dict[str, str] = {}

    def expanded(text: str, within: tuple[str, ...]) -> str:
        return _INCLUDES.sub(lambda found: content(found, within), text)

    def content(found: re.Match[str], within: tuple[str, ...]) -> str:
        if found.group("file") is None:  # a comment or VERBATIM text, which stays
            return found.group()
        statement, place = found.group(), os.path.normpath(found.group("file"))
        if os.path.isabs(place) or place.startswith(os.pardir):
            raise InputError(
                f"{statement} is outside the folder of the mod file. Copy that file beside the mod file and include it "
                "by its name, so that it goes wherever the model is simulated."
            )
        if place in within:
            raise InputError(f"{statement} is within that file itself. Remove it there.")
        if (file := find(place)) is None:
            raise InputError(f"{statement}: no such file beside the mod file. Put it there, or correct its name.")
        included[place] = file
        return expanded(file, (*within, place))

    whole = expanded(text, ())
    left = _VERBATIM.findall(whole)
    while left:
        for name in map(os.path.normpath, _HEADERS.findall(left.pop())):
            header = None if name in included or name.startswith(os.pardir) else find(name)
            if header is not None:
                included[name] = header
                left.append(header)
    return Gathered(whole, included)


def read_with_includes(path: Path) -> Gathered:
    """Return the NMODL file `path` with what it includes; raises as `read_nmodl` and `gather` do."""

    def find(name: str) -> str | None:
        return read_nmodl(path.parent / name) if (path.parent / name).is_file() else None

    try:
        return gather(read_nmodl(path), find)
    except InputError as error:
        raise error if str(error).startswith(str(path.parent)) else InputError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Declared:
    """What an NMODL text declares: the kind of mechanism, one of `KINDS`, and its name, empty where it has none."""

    kind: str
    name: str


def parse_declared(text: str, stem: str = "") -> Declared:
    """Return what kind of mechanism an NMODL text declares; one without a name has that of its file, `stem`."""
    declarations = _declarations(without_comments(text))
    for keyword, words in declarations:
        if keyword in KINDS and words:
            return Declared(keyword, words[0])
    return Declared(DENSITY, stem if declarations else "")


def parse_mechanism(text: str, stem: str = "") -> Mechanism | None:
    """Return the density mechanism of an NMODL text; None for point processes and files of functions.

    Without a SUFFIX it is called as its file, `stem`.
    """
    declared = parse_declared(text, stem)
    if declared.kind != DENSITY or declared.name in ("", NO_MECHANISM):
        return None
    text = without_comments(text)
    uses: dict[str, IonUse] = {}
    named: dict[str, list[str]] = {}
    for keyword, words in _declarations(text):
        named.setdefault(keyword, []).extend(words)
        if keyword == "USEION" and words:
            uses.setdefault(words[0], IonUse())
        elif keyword in ("READ", "WRITE") and uses:
            ion, use = list(uses.items())[-1]
            read, written = (words, []) if keyword == "READ" else ([], words)
            uses[ion] = IonUse((*use.read, *read), (*use.written, *written))
    ranges = set(named.get("RANGE", ()))
    of_ions = {name for use in uses.values() for name in (*use.read, *use.written)}
    values = _values(text)
    own = {name: value for name, value in values.items() if name not in of_ions}
    assigned = re.findall(r"\b[A-Za-z]\w*", re.sub(r"\(.*?\)", "", _block(text, "ASSIGNED") + _block(text, "STATE")))
    return Mechanism(
        name=declared.name,
        parameters={name: value or 0.0 for name, value in own.items() if name in ranges},
        uses=uses,
        shared=tuple(name for name in own if name not in ranges | OF_NEURON),
        calculated=tuple(dict.fromkeys(n for n in assigned if n in ranges and n not in own and n not in of_ions)),
        pointers=_used_pointers(text, [*named.get("POINTER", ()), *named.get("BBCOREPOINTER", ())]),
        without_effect={name: value for name, value in values.items() if name in of_ions and value is not None},
    )


def _values(text: str) -> dict[str, float | None]:
    """Return the names of the PARAMETER blocks, each with its value or None."""
    block = re.sub(
        r"\(.*?\)|<.*?>|\bFROM\b[^\n]*?\bTO\s+\S+", "", _block(text, "PARAMETER")
    )  # without units and limits
    found = re.findall(r"\b([A-Za-z]\w*)\b(?:\s*=\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?))?", block)
    return {name: float(value) if value else None for name, value in found}


def _used_pointers(text: str, pointers: Iterable[str]) -> tuple[str, ...]:
    """Return the pointers that stand elsewhere than in declarations."""
    rest = re.sub(r"\b(NEURON|ASSIGNED|PARAMETER|STATE|UNITS)\s*\{[^}]*\}", "", text)
    return tuple(dict.fromkeys(name for name in pointers if re.search(rf"\b{name}\b", rest)))


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
    """Return what stands between the braces of the blocks `keyword`."""
    return "\n".join(re.findall(rf"\b{keyword}\s*\{{(.*?)\}}", text, flags=re.DOTALL))


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
    Mechanism(
        "hh",
        {"gnabar": 0.12, "gkbar": 0.036, "gl": 3e-4, "el": -54.3},
        {"na": IonUse(("ena",), ("ina",)), "k": IonUse(("ek",), ("ik",))},
    ),
)
MECHANISMS: dict[str, Mechanism] = {m.name: m for m in BUILT_INTO_NEURON} | describe(PROJECT_SOURCES)

"""Mechanisms of the user's own: NMODL that travels with a model to wherever it is simulated."""

import contextlib
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from neurofleet.errors import InputError
from neurofleet.neurosim.mechanisms.catalogue import (
    BUILT_INTO_NEURON,
    MECHANISMS,
    OWN_SOURCES,
    Mechanism,
    parse_mechanism,
    read_nmodl,
)
from neurofleet.neurosim.mechanisms.nmodl_compilation import compile_mechanisms, load_mechanisms

BUILT_IN = frozenset(mechanism.name for mechanism in BUILT_INTO_NEURON)


@dataclass(frozen=True)
class UserMechanisms:
    """Density mechanisms beside those of the project; one that has a name of the project's takes its place.

    Parameters
    ----------
    sources : mapping
        SUFFIX -> NMODL text.
    """

    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "UserMechanisms":
        """Read the ``.mod`` files of a folder.

        Point processes and artificial cells, which no recipe can insert, are left out.

        Raises
        ------
        InputError
            There is no such folder or no density mechanism in it, or two files declare the same one.
        """
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise InputError(
                f"{folder}: expected a folder of .mod files, found {found}. Correct the path; a relative one "
                "starts at the job file."
            )
        files: dict[str, Path] = {}
        sources: dict[str, str] = {}
        for path in sorted(folder.glob("*.mod")):
            text = read_nmodl(path)
            if (mechanism := parse_mechanism(text)) is None:
                continue
            if mechanism.name in files:
                raise InputError(
                    f"{folder}: expected one file for each SUFFIX, found {mechanism.name} in "
                    f"{files[mechanism.name].name} and in {path.name}. Remove one, or rename its SUFFIX."
                )
            files[mechanism.name] = path
            sources[mechanism.name] = text
        if not sources:
            raise InputError(
                f"{folder}: expected .mod files with a SUFFIX (density mechanisms), found none in the folder "
                "itself. Name the folder that holds them."
            )
        return cls(dict(sorted(sources.items())))

    def only(self, names: Collection[str]) -> "UserMechanisms":
        """Return those of `names`."""
        return UserMechanisms({name: text for name, text in self.sources.items() if name in names})

    @property
    def known(self) -> dict[str, Mechanism]:
        """All mechanisms that a recipe may name: these, the project's, and those built into NEURON."""
        parsed = (parse_mechanism(text) for name, text in self.sources.items() if name not in BUILT_IN)
        return MECHANISMS | {mechanism.name: mechanism for mechanism in parsed if mechanism}

    @property
    def replacing(self) -> list[str]:
        """Names of the project's mechanisms whose place these take."""
        return [name for name in self.sources if name in MECHANISMS and name not in BUILT_IN]

    @property
    def reserved(self) -> list[str]:
        """Names of mechanisms that are built into NEURON, whose place these cannot take."""
        return [name for name in self.sources if name in BUILT_IN]

    @contextlib.contextmanager
    def written(self) -> Iterator[list[Path]]:
        """Write them into a temporary folder, ``NAME.mod`` each."""
        with tempfile.TemporaryDirectory(prefix="neurofleet-mod-") as folder:
            yield _write(self.sources, Path(folder))

    def compile(self) -> None:
        """Compile them, if they have not been on this machine.

        Raises
        ------
        InputError
            As `compile_mechanisms`.
        """
        if self.sources:
            with self.written() as paths:
                compile_mechanisms(paths)

    def load(self) -> None:
        """Load them, and the project's, into this process's NEURON.

        Raises
        ------
        InputError
            As `load_mechanisms`.
        """
        with self.written() as paths:
            load_mechanisms(paths)

    def copy(self, names: Collection[str], folder: Path) -> None:
        """Write the NMODL of mechanisms, these or the project's, into `folder`; NEURON's are built in."""
        ours = {path.stem: read_nmodl(path) for path in OWN_SOURCES}
        sources = ours | dict(self.sources)
        folder.mkdir(parents=True, exist_ok=True)
        _write({name: sources[name] for name in sorted(set(names) - BUILT_IN)}, folder)


def _write(sources: Mapping[str, str], folder: Path) -> list[Path]:
    paths = [folder / f"{name}.mod" for name in sources]
    for path, text in zip(paths, sources.values(), strict=True):
        path.write_text(text, "utf-8")
    return paths

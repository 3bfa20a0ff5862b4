"""The files of evaluations: one a generation while a fit runs, one for many generations after compaction.

``OUT/evaluations/cell=ID/stage=NAME/seed=N/generation-00012.parquet``: a part, one generation.
``OUT/evaluations/cell=ID/stage=NAME/seed=N/generations-00000-00199.parquet``: a merged file, the generations
from the first to the last number in its name, sorted by generation and individual.

A merged file wins: a part whose generation lies in the range of a merged file is not read. Both are there
when a compaction was stopped before it had removed the parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import ClusterError
from cluster.schemas import check_version

EVALUATIONS = "evaluations"

_FOLDER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
_FILE = re.compile(
    rf"^{EVALUATIONS}/cell=(?P<cell>[^/]+)/stage=(?P<stage>[^/]+)/seed=(?P<seed>\d+)/"
    r"(?:generation-(?P<part>\d{5})|generations-(?P<first>\d{5})-(?P<last>\d{5}))\.parquet$"
)


class FitKey(NamedTuple):
    """One stage of one cell with one seed."""

    cell: str
    stage: str
    seed: int

    @property
    def folder(self) -> str:
        """Where its evaluations are, from the run's folder.

        Raises
        ------
        ClusterError
            If the cell or the stage cannot be a folder's name.
        """
        return f"{EVALUATIONS}/cell={checked(self.cell)}/stage={checked(self.stage)}/seed={int(self.seed)}"

    def part(self, generation: int) -> str:
        """The name of the file of one generation."""
        return f"{self.folder}/generation-{generation:05d}.parquet"

    def merged(self, held: range) -> str:
        """The name of the file of several generations."""
        return f"{self.folder}/generations-{held[0]:05d}-{held[-1]:05d}.parquet"


@dataclass
class GenerationFiles:
    """The files of one stage and seed.

    Attributes
    ----------
    parts : dict of int to str
        Generation -> name.
    merged : dict of range to str
        Generations -> name.
    """

    parts: dict[int, str] = field(default_factory=dict)
    merged: dict[range, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.parts) + len(self.merged)

    def to_read(self) -> list[tuple[range, str]]:
        """The files that a reader reads, with the generations each should hold, in their order."""
        alone = [(range(number, number + 1), name) for number, name in self.unmerged().items()]
        return sorted([*self.merged.items(), *alone], key=lambda file: file[0].start)

    def unmerged(self) -> dict[int, str]:
        """The parts that no merged file holds."""
        return {n: self.parts[n] for n in sorted(self.parts) if not any(n in held for held in self.merged)}

    def check_whole(self, folder: str) -> None:
        """Raise `ClusterError` if a generation is missing before the last, or two merged files overlap."""
        expected = 0
        for numbers, name in self.to_read():
            if numbers.start > expected:
                raise ClusterError(
                    f"{folder} holds generation {numbers.start} but not {expected}. Generations build on each"
                    " other: put the missing file back, or remove the later ones to have them computed again."
                )
            if numbers.start < expected:
                raise ClusterError(
                    f"{folder}/{name.rpartition('/')[2]} begins before the file before it ends. A file was"
                    " renamed or copied: remove the one that is too many."
                )
            expected = numbers.stop


def evaluation_files(names: Iterable[str]) -> dict[FitKey, GenerationFiles]:
    """Sort names of files by cell, stage and seed; those that hold no evaluations are passed over."""
    found: dict[FitKey, GenerationFiles] = {}
    for name in sorted(names):
        if match := _FILE.match(name):
            files = found.setdefault(
                FitKey(match["cell"], match["stage"], int(match["seed"])), GenerationFiles()
            )
            if match["part"]:
                files.parts[int(match["part"])] = name
            else:
                files.merged[range(int(match["first"]), int(match["last"]) + 1)] = name
    return found


def read_tables(name: str, content: bytes | None, held: range) -> list[pa.Table]:
    """Read the content of a file of evaluations: a table for each generation.

    Parameters
    ----------
    name : str
        For messages.
    content : bytes or None
        None if the file is gone.
    held : range
        The generations it should hold.

    Raises
    ------
    ClusterError
        If it cannot be read, or holds others.
    """
    if content is None:
        raise ClusterError(
            f"{name} was there and is gone. It was removed by somebody, or merged by a compaction this very"
            " moment. Give the command again."
        )
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        check_version(table.schema, EVALUATIONS)
    except ClusterError as error:
        raise ClusterError(f"{name}: {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise ClusterError(
            f"Cannot read {name}: {error}. Put back a good copy, or remove it (and later generations) to have"
            " it computed again."
        ) from error
    numbers = table["generation"].to_numpy()
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    found = numbers[starts].tolist()
    if found != list(held):
        raise ClusterError(
            f"{name} holds {_generations(found)}; by its name it should hold {_generations(list(held))}."
            " A file was renamed or copied; put the right one back."
        )
    return [table.slice(a, b - a) for a, b in zip(starts, [*starts[1:], len(table)], strict=True)]


def _generations(numbers: list[int]) -> str:
    if len(numbers) < 2:
        return f"generation {numbers[0]}" if numbers else "no generation"
    return f"{len(numbers)} generations from {numbers[0]} to {numbers[-1]}"


def checked(name: str) -> str:
    """Return a cell's or stage's name if a folder may have it.

    Raises
    ------
    ClusterError
    """
    if not _FOLDER_NAME.match(name):
        raise ClusterError(
            f"{name!r} names a folder of results, so it should be letters, digits and ._+- only, and begin"
            " with a letter or digit. Give the cell or stage another name."
        )
    return name

"""How a table of text is written: its separator, decimal sign and encoding, and the names in its first line."""

from __future__ import annotations

import csv
import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

TEXT_ENDINGS = tuple(ending + packed for ending in (".csv", ".tsv", ".txt", ".tab") for packed in ("", ".gz"))
SEPARATORS = (",", ";", "\t", "|", " ")
_LINES = 20
_MOST_BYTES = 1 << 26
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+([eE][+-]?\d+)?")
_DECIMAL_POINT = re.compile(r"-?\d*\.\d+([eE][+-]?\d+)?")
_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


@dataclass(frozen=True)
class TextDialect:
    """How a table of text is written.

    Attributes
    ----------
    separator, decimal, encoding : str
    header : tuple of str
        The names in the first line, one for each column; that of the row names is empty where the line lacks it, as R
        writes it, and the last one is where only the lines below end in a separator.
    skipped : int
        Lines before the first one that holds names: comments.
    packed : bool
        Whether the file is gzipped, whatever it is called.
    """

    separator: str
    decimal: str
    encoding: str
    header: tuple[str, ...]
    skipped: int
    packed: bool

    @property
    def pandas(self) -> dict[str, Any]:
        """Arguments of `pandas.read_csv`, which then reads the lines below the header."""
        return {
            "sep": r"\s+" if self.separator == " " else self.separator,
            "decimal": self.decimal,
            "encoding": self.encoding,
            "header": None,
            "skiprows": self.skipped + 1,
            "compression": "gzip" if self.packed else None,
        }


def text_dialect(path: Path) -> TextDialect:
    """Find out how a table is written from its first lines.

    The separator is the one by which all lines have equally many fields; of several, the one that makes most. What the
    file's name says (.tsv) decides where that leaves a choice.

    Raises
    ------
    OSError, EOFError
        If the file cannot be read.
    ValueError
        If it is no text, or empty, or has more values in a line than names.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opened: IO[bytes] = gzip.open(path) if packed else open(path, "rb")  # type: ignore[assignment]
    with opened:
        raw = _first_lines(opened)
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        if b"\0" in raw:
            raise ValueError("it is not text") from None
        encoding, text = "cp1252", raw.decode("cp1252", errors="replace")  # what Excel writes in western Europe
    if "\0" in text:
        raise ValueError("it is not text")
    lines = text.splitlines()
    skipped = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")), None)
    if skipped is None:
        raise ValueError("it is empty")
    lines = lines[skipped:]
    expected = "\t" if path.name.lower().removesuffix(".gz").endswith((".tsv", ".txt", ".tab")) else ","
    separator = max(SEPARATORS, key=lambda one: (_fields(lines, one), one == expected))
    if _fields(lines, separator) < 2:
        separator = expected
    header, *rows = (_split(line, separator) for line in lines if line.strip())
    values = [value for row in rows for value in row[1:]]
    commas = sum(_DECIMAL_COMMA.fullmatch(value) is not None for value in values)
    points = sum(_DECIMAL_POINT.fullmatch(value) is not None for value in values)
    decimal = "," if separator != "," and commas and not points else "."
    if rows and len(header) == len(rows[0]) - 1:
        ends_in_separator = not any(row[-1] for row in rows)
        header = [*header, ""] if ends_in_separator else ["", *header]
    longest = max(map(len, rows), default=0)
    if longest > len(header):
        raise ValueError(f"below {len(header)} names there are lines of {longest} values, separated by {separator!r}")
    return TextDialect(separator, decimal, encoding, tuple(header), skipped, packed)


def _first_lines(file: IO[bytes]) -> bytes:
    content = b""
    for _ in range(_LINES):
        content += file.readline(_MOST_BYTES)
        if len(content) >= _MOST_BYTES:
            break
    return content[: len(content) // 2 * 2] if content.startswith((b"\xff\xfe", b"\xfe\xff")) else content


def _fields(lines: list[str], separator: str) -> int:
    """Return how many fields a separator makes of each line; 0 where they differ."""
    counts = [len(_split(line, separator)) for line in lines if line.strip()]
    if len(counts) == 1:
        return counts[0]
    first, rest = counts[0], set(counts[1:])
    if len(rest) > 1:
        return 0
    (n_fields,) = rest
    return n_fields if first == n_fields or (first == n_fields - 1 and n_fields > 2) else 0


def _split(line: str, separator: str) -> list[str]:
    line = line.rstrip("\r\n")
    if separator == " ":
        return [field.strip('"') for field in line.split()]
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []

"""Arrays as files hold them: read without pickle and no larger than the file, and looked at."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from neurofleet.errors import UsageError

LARGEST_COMPRESSION = 1100
"""Deflate, the strongest common compression, makes values at most 1032 times smaller."""

SMALL_BYTES = 1 << 28


DAMAGED: tuple[type[Exception], ...] = (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError)
DAMAGED += (ArithmeticError, RuntimeError, MemoryError, zlib.error)
"""What h5py, zarr, scipy and filters raise for files that are cut off, changed, or claim what they do not hold."""


class UnreadableArray(ValueError):
    """An array that is damaged, claims more than its file can hold, or needs pickle."""


def refuse_other_data(given: Any, in_memory: type, what: str) -> None:
    """Refuse what is neither a sequence of files nor of data in memory, such as a table.

    Parameters
    ----------
    given : object
    in_memory : type
        What data that is open already are of.
    what : str
        What the files hold, for the message.

    Raises
    ------
    UsageError
    """
    wrong = [item for item in given if not isinstance(item, str | Path | in_memory)] if _is_list(given) else [given]
    if wrong:
        raise UsageError(
            f"Expected files of {what}, or {in_memory.__name__} in memory, found {type(wrong[0]).__name__}. Save it"
            " as a file first, such as by numpy.savez (docs/formats.md)."
        )


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes)


def npz_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file.

    Raises
    ------
    UnreadableArray
        If the file is damaged, or an array holds Python objects.
    OSError
        If it cannot be opened.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {entry.filename.removesuffix(".npy"): _member(archive, entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UnreadableArray(f"it is not a zip archive of arrays, or is damaged ({error})") from None


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    if entry.file_size > SMALL_BYTES and entry.file_size > LARGEST_COMPRESSION * entry.compress_size:
        raise UnreadableArray(f"{entry.filename} claims {entry.file_size:,} bytes in {entry.compress_size:,}")
    with archive.open(entry) as file:
        return _read(file, entry.file_size, entry.filename.removesuffix(".npy"))


def npy_array(path: str | Path) -> np.ndarray:
    """Return the array of an npy file.

    Raises
    ------
    UnreadableArray
        If the file is damaged, or holds Python objects.
    OSError
        If it cannot be opened.
    """
    with open(path, "rb") as file:
        return _read(file, Path(path).stat().st_size, Path(path).name)


def _read(file: Any, n_bytes: int, name: str) -> np.ndarray:
    """Read an array whose header claims no more than the file's `n_bytes`."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except (ValueError, EOFError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise UnreadableArray(f"{name} is not an array of numpy ({error})") from None
    if dtype.hasobject:
        raise UnreadableArray(
            f"array {name!r} holds Python objects (a pickle), which can run any code when it is loaded; expected plain"
            " numbers or text. Write it again without object arrays: pad unequal rows, store text with .astype(str),"
            " and spike times with an index array"
        )
    count = 1
    for length in shape:
        count *= int(length)
    if count < 0 or count * dtype.itemsize > n_bytes:
        raise UnreadableArray(f"{name} claims {count:,} values of {dtype}, but has {n_bytes:,} bytes")
    values = np.empty(shape[::-1] if fortran else shape, dtype)
    place, content = 0, memoryview(values.reshape(-1).view(np.uint8)) if values.nbytes else memoryview(b"")
    while place < len(content):
        n_read = file.readinto(content[place:])
        if not n_read:
            raise UnreadableArray(f"{name} is cut off: {place:,} of {len(content):,} bytes")
        place += n_read
    return values.T if fortran else values


def h5_values(dataset: h5py.Dataset) -> np.ndarray:
    """Return all values of a dataset, unless it claims far more than the file can hold.

    Raises
    ------
    UnreadableArray
        If it does, or lies in another file.
    """
    if dataset.external:
        raise UnreadableArray(f"{dataset.name} lies in another file ({dataset.external[0][0]})")
    n_bytes, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if n_bytes > SMALL_BYTES and n_bytes > LARGEST_COMPRESSION * stored:
        raise UnreadableArray(f"{dataset.name} claims {n_bytes:,} bytes, and {stored:,} are stored")
    return np.asarray(dataset[()])


def column_values(data: Any) -> np.ndarray:
    """Return the values of what hdmf holds as a dataset, an array or a list.

    Raises
    ------
    UnreadableArray
        See `h5_values`.
    """
    return h5_values(data) if isinstance(data, h5py.Dataset) else np.asarray(data[:])


def as_text(values: pd.Series | np.ndarray) -> np.ndarray:
    """Return values as text: "" where missing, whole numbers without a point, so that 7, 7.0 and "7" are the same."""
    series = values if isinstance(values, pd.Series) else pd.Series(values)
    texts = ["" if missing else _text(value) for value, missing in zip(series, series.isna(), strict=True)]
    return np.asarray(texts, dtype=str)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def smoothness(rows: np.ndarray) -> float:
    """Return the correlation of neighbouring values along a row, the median over the rows; 0 if all are constant."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    power = (centred * centred).sum(axis=1)
    varying = power > 0
    if not varying.any():
        return 0.0
    return float(np.median((centred[:, 1:] * centred[:, :-1]).sum(axis=1)[varying] / power[varying]))

"""Writes objects of R as .rds files, as saveRDS does (serialization 3, XDR): vectors, lists and S4 objects."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

NIL = struct.pack(">i", 254)


class S4:
    """An object with slots."""

    def __init__(self, kind: str, **slots: Any) -> None:
        self.kind, self.slots = kind, slots


class Vector:
    """A vector or list with attributes such as ``names``."""

    def __init__(self, values: Any, **attributes: Any) -> None:
        self.values, self.attributes = values, attributes


def named(**elements: Any) -> Vector:
    return Vector(list(elements.values()), names=list(elements))


def factor(words: Any) -> Vector:
    levels, codes = np.unique(np.asarray(words, dtype=str), return_inverse=True)
    return Vector(codes.astype(np.int32) + 1, levels=list(levels), **{"class": ["factor"]})


def data_frame(row_names: Any, **columns: Any) -> Vector:
    return Vector(
        list(columns.values()), names=list(columns), **{"class": ["data.frame"], "row.names": list(row_names)}
    )


def dgc(matrix: np.ndarray, rows: Any, columns: Any) -> S4:
    """Return a sparse matrix by columns; names may be None."""
    found = sp.csc_matrix(matrix)
    return S4(
        "dgCMatrix",
        i=found.indices.astype(np.int32),
        p=found.indptr.astype(np.int32),
        Dim=np.array(matrix.shape, dtype=np.int32),
        Dimnames=[None if names is None else list(names) for names in (rows, columns)],
        x=found.data.astype(np.float64),
        factors=[],
    )


def written_rds(value: Any, path: Path, compress: Any = gzip.compress) -> Path:
    content = b"X\n" + struct.pack(">iiii", 3, 0x00040000, 0x00030500, 5) + b"UTF-8" + _item(value)
    path.write_bytes(compress(content))
    return path


def closure() -> bytes:
    """Return a compiled function: its code has a call, the same call again, a name, and words."""
    code = struct.pack(">iiiiii", 21, 1, 13, 1, 12, 4)
    call = struct.pack(">iii", 244, 0, 6) + NIL + struct.pack(">ii", 1, 1) + _word("f") + struct.pack(">i", 0) + NIL
    constants = call + struct.pack(">ii", 243, 0) + struct.pack(">ii", 1, 0x1FF) + struct.pack(">i", 16) + _item(["x"])
    space = struct.pack(">iii", 249, 0, 1) + _word("base")
    environment = struct.pack(">ii", 4, 0) + space + NIL * 3
    return struct.pack(">i", 3 | 0x400) + environment + struct.pack(">i", 251) + code + constants


def compact(kind: str, state: Any, **attributes: Any) -> bytes:
    """Return a vector in one of R's alternative forms."""
    form = [struct.pack(">ii", 2, 1) + _word(kind), struct.pack(">ii", 2, 1) + _word("base")]
    info = b"".join(form) + struct.pack(">i", 2) + _item(np.array([14], dtype=np.int32)) + NIL
    held = _item(state)
    if kind.startswith("wrap"):
        held = struct.pack(">i", 2) + held + _item(np.array([0], dtype=np.int32))
    return struct.pack(">i", 238) + info + held + (_pairs(attributes) if attributes else NIL)


def _item(value: Any) -> bytes:
    if value is None:
        return NIL
    if isinstance(value, bytes):
        return value
    if isinstance(value, S4):
        attributes = value.slots | {"class": Vector([value.kind], package=["made"])}
        return struct.pack(">i", 25 | 0x100 | 0x200 | (16 << 12)) + _pairs(attributes)
    attributes = value.attributes if isinstance(value, Vector) else {}
    values = value.values if isinstance(value, Vector) else value
    flags = (0x200 if attributes else 0) | (0x100 if "class" in attributes else 0)
    if isinstance(values, np.ndarray):
        kind = {"b": 10, "i": 13, "f": 14}[values.dtype.kind]
        body = values.astype(">f8" if kind == 14 else ">i4").tobytes()
    elif values and all(isinstance(word, str) for word in values):
        kind, body = 16, b"".join(_word(word) for word in values)
    else:
        kind, body = 19, b"".join(_item(each) for each in values)
    return struct.pack(">ii", kind | flags, len(values)) + body + (_pairs(attributes) if attributes else b"")


def _pairs(attributes: dict[str, Any]) -> bytes:
    parts = [struct.pack(">ii", 0x402, 1) + _word(name) + _item(value) for name, value in attributes.items()]
    return b"".join(parts) + NIL


def _word(word: str) -> bytes:
    return struct.pack(">ii", 9 | (64 << 12), len(word)) + word.encode()

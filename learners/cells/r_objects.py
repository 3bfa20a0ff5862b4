"""Reads objects of R as saveRDS writes them: data and attributes; of functions and environments nothing.

The format is that of "R Internals", serialization 2 and 3, XDR. Nothing in a file is evaluated.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

Node = dict[str, Any]
"""``type``, and where there are any ``data``, ``attributes`` (nodes by name) and ``class_name``."""

NA_INTEGER = -(2**31)
_BLOCK = 1 << 24
_PACKED: tuple[tuple[bytes, Callable[[Path], IO[bytes]]], ...] = (
    (b"\x1f\x8b", gzip.open),  # type: ignore[list-item]
    (b"BZh", bz2.open),
    (b"\xfd7zXZ", lzma.open),
)
_SYMBOL, _PAIRS, _CLOSURE, _ENVIRONMENT, _PROMISE, _CALL, _SPECIAL, _BUILTIN, _WORD = range(1, 10)
_NUMBERS = {
    10: ("logical", ">i4"),
    13: ("integer", ">i4"),
    14: ("double", ">f8"),
    15: ("complex", ">c16"),
    24: ("raw", "u1"),
}
_DOTS, _STRINGS, _LIST, _EXPRESSION, _BYTECODE, _POINTER, _WEAK, _S4 = 17, 16, 19, 20, 21, 22, 23, 25
_ALTERNATIVE, _ATTRIBUTED_PAIRS, _ATTRIBUTED_CALL, _SEEN_CODE, _REFERENCE = 238, 239, 240, 243, 255
_CODE_DEFINED = 244
_PERSISTENT, _PACKAGE, _NAMESPACE = 247, 248, 249
_SINGLE = {241, 242, 250, 251, 252, 253, 254}
"""The empty, base and global environment, the base namespace, missing and unbound values, and 254, NULL."""

_NULL: Node = {"type": "NULL"}


class UnreadableR(ValueError):
    """A file that is no object of R, is damaged, or too large."""


def read_r_object(path: Path, limit_bytes: int) -> Node:
    """Return the object of an .rds file, whatever it is compressed with.

    Raises
    ------
    UnreadableR
        If it is none, is damaged, or has more than `limit_bytes` unpacked.
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(6)
    opener = next((one for mark, one in _PACKED if start.startswith(mark)), lambda place: open(place, "rb"))
    content = bytearray()
    try:
        with opener(path) as unpacked:
            while block := unpacked.read(_BLOCK):
                content += block
                if len(content) > limit_bytes:
                    raise UnreadableR(f"it has more than {limit_bytes / 2**30:.0f} GB unpacked, too much for memory")
    except (EOFError, lzma.LZMAError) as error:
        raise UnreadableR(f"it is cut off or damaged: {error}") from None
    try:
        return _Reader(memoryview(content)).object()
    except RecursionError:
        raise UnreadableR("its lists are too deep") from None


class _Reader:
    def __init__(self, content: memoryview) -> None:
        self._content, self._place = content, 0
        self._seen: list[Node] = []

    def object(self) -> Node:
        if bytes(self._take(2)) != b"X\n":
            raise UnreadableR("it does not begin as saveRDS writes files in binary form (X)")
        version = self._integer()
        self._take(8)
        if version == 3:
            self._take(self._integer())
        elif version != 2:
            raise UnreadableR(f"its serialization has version {version}, expected 2 or 3")
        return self._item()

    def _take(self, n_bytes: int) -> memoryview:
        end = self._place + n_bytes
        if n_bytes < 0 or end > len(self._content):
            raise UnreadableR("it is cut off or damaged")
        part, self._place = self._content[self._place : end], end
        return part

    def _integer(self) -> int:
        return int.from_bytes(self._take(4), "big", signed=True)

    def _length(self) -> int:
        length = self._integer()
        if length == -1:
            length = (self._integer() << 32) + (self._integer() & 0xFFFFFFFF)
        if not 0 <= length <= len(self._content) - self._place:
            raise UnreadableR(f"a vector claims {length:,} values, more than the file can hold")
        return length

    def _remembered(self, node: Node) -> Node:
        self._seen.append(node)
        return node

    def _item(self) -> Node:
        flags = self._integer()
        kind, has_attributes, has_tag = flags & 0xFF, bool(flags & 0x200), bool(flags & 0x400)
        if kind in _SINGLE:
            return _NULL
        if kind == _REFERENCE:
            place = flags >> 8 or self._integer()
            if not 1 <= place <= len(self._seen):
                raise UnreadableR("it is damaged: it refers to what is not there")
            return self._seen[place - 1]
        if kind == _SYMBOL:
            return self._remembered({"type": "symbol", "data": self._item().get("data")})
        if kind == _WORD:
            return {"type": "word", "data": self._word(flags >> 12)}
        if kind in (_PAIRS, _CALL, _CLOSURE, _PROMISE, _DOTS):
            return self._pairs(kind, has_attributes, has_tag)
        if kind == _ALTERNATIVE:
            info, state, attributes = self._item(), self._item(), self._item()
            return _with_attributes(_expanded(info, state), attributes)
        if kind == _ENVIRONMENT:
            node = self._remembered({"type": "environment"})
            self._take(4)
            for _ in range(4):
                self._item()
            return node
        if kind in (_PERSISTENT, _PACKAGE, _NAMESPACE):
            self._take(4)
            for _ in range(self._length()):
                self._item()
            return self._remembered({"type": "environment"})
        node = self._vector(kind)
        return _with_attributes(node, self._item()) if has_attributes else node

    def _word(self, levels: int) -> str | None:
        length = self._integer()
        if length == -1:
            return None
        return bytes(self._take(length)).decode("latin-1" if levels & 4 else "utf-8", "replace")

    def _vector(self, kind: int) -> Node:
        if kind in _NUMBERS:
            name, code = _NUMBERS[kind]
            values = np.dtype(code)
            return {"type": name, "data": np.frombuffer(self._take(self._length() * values.itemsize), values)}
        if kind == _STRINGS:
            return {"type": "character", "data": [self._item().get("data") for _ in range(self._length())]}
        if kind in (_LIST, _EXPRESSION):
            return {"type": "list", "data": [self._item() for _ in range(self._length())]}
        if kind == _S4:
            return {"type": "S4"}
        if kind in (_SPECIAL, _BUILTIN):
            self._take(self._integer())
            return {"type": "function"}
        if kind == _BYTECODE:
            self._integer()
            self._code()
            return {"type": "function"}
        if kind == _POINTER:
            node = self._remembered({"type": "pointer"})
            self._item(), self._item()
            return node
        if kind == _WEAK:
            return self._remembered({"type": "pointer"})
        raise UnreadableR(f"it is damaged, or holds a kind of object ({kind}) that is not known")

    def _pairs(self, kind: int, has_attributes: bool, has_tag: bool) -> Node:
        """Read a linked list as a list with names; of functions and calls nothing is kept."""
        names: list[str] = []
        values: list[Node] = []
        while True:
            if has_attributes:
                self._item()
            tag = self._item() if has_tag else _NULL
            names.append(str(tag.get("data", "")))
            values.append(self._item())
            if kind != _PAIRS:
                self._item()
                return {"type": "function" if kind == _CLOSURE else "language"}
            ahead = int.from_bytes(self._content[self._place : self._place + 4], "big")
            if ahead & 0xFF != _PAIRS:
                values_after = self._item()
                return {"type": "pairs", "data": values, "names": names, "rest": values_after}
            self._place += 4
            has_attributes, has_tag = bool(ahead & 0x200), bool(ahead & 0x400)

    def _code(self) -> None:
        self._item()
        for _ in range(self._length()):
            kind = self._integer()
            if kind == _BYTECODE:
                self._code()
            else:
                self._code_part(kind)

    def _code_part(self, kind: int) -> None:
        """Read a constant of compiled code, of which lists and calls are written in a form of their own."""
        while True:
            if kind == _SEEN_CODE:
                self._integer()
                return
            if kind == _CODE_DEFINED:
                self._integer()
                kind = self._integer()
            if kind not in (_CALL, _PAIRS, _ATTRIBUTED_CALL, _ATTRIBUTED_PAIRS):
                self._item()
                return
            if kind in (_ATTRIBUTED_CALL, _ATTRIBUTED_PAIRS):
                self._item()
            self._item()
            self._code_part(self._integer())
            kind = self._integer()


def _with_attributes(node: Node, attributes: Node) -> Node:
    if attributes["type"] != "pairs":
        return node
    named = dict(zip(attributes["names"], attributes["data"], strict=True))
    kinds = named.get("class", _NULL).get("data")
    described: Node = {"attributes": named}
    if kinds is not None and len(kinds) and isinstance(kinds[0], str):
        described["class_name"] = kinds[0]
    return node | described


def _expanded(info: Node, state: Node) -> Node:
    """Return the vector that an alternative form of R (ALTREP) stands for."""
    name = str(info["data"][0].get("data")) if info["type"] == "pairs" else ""
    held = state.get("data")
    if name in ("compact_intseq", "compact_realseq") and held is not None and len(held) == 3 and 0 <= held[0] <= 10**7:
        n, first, step = (float(number) for number in held)
        kind, code = ("integer", "i4") if name == "compact_intseq" else ("double", "f8")
        return {"type": kind, "data": (first + step * np.arange(int(n))).astype(code)}
    if name == "deferred_string" and state["type"] == "pairs":
        numbers = held[0].get("data") if held else None
        return {
            "type": "character",
            "data": [f"{number:.15g}" for number in np.asarray(() if numbers is None else numbers).tolist()],
        }
    if name.startswith("wrap_") and state["type"] in ("pairs", "list") and held:
        return held[0]
    return {"type": name or "unknown"}

"""What names of classes tell of mistakes in them."""

import re
from collections.abc import Iterable

from neurofleet.wording import listed


def alike_notes(classes: Iterable[str]) -> list[str]:
    """Return a note on classes whose names differ by capitals, spaces and underscores only; nothing without any."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(re.sub(r"[\s_]+", "", name.casefold()), []).append(name)
    found = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if not found:
        return []
    return [
        f"Names of classes that differ by capitals, spaces or underscores only: {listed(found)}. If each of these is"
        " one class, give it one name."
    ]

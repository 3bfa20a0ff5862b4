"""The consoles that jobs print to: names of cells, classes and files stand there as they are."""

from typing import Any

from rich.console import Console
from rich.table import Table

from neurofleet.wording import agreeing


def terminal(*, errors: bool = False, highlight: bool = True, width: int | None = None) -> Console:
    """Return a console on standard output, or with `errors` on standard error.

    No text is taken for rich's markup or for an emoji: a class may be named ``[/red]``.
    """
    return _Terminal(stderr=errors, highlight=highlight, width=width, markup=False, emoji=False)


class _Terminal(Console):
    """A console on which one thing is one, as in ``1 cell``."""

    def print(self, *objects: Any, **options: Any) -> None:
        for shown in objects:
            if isinstance(shown, Table) and isinstance(shown.title, str):
                shown.title = agreeing(shown.title)
        super().print(*(agreeing(shown) if isinstance(shown, str) else shown for shown in objects), **options)

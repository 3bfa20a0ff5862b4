"""The consoles that jobs print to: names of cells, classes and files stand there as they are."""

from rich.console import Console


def terminal(*, errors: bool = False, highlight: bool = True, width: int | None = None) -> Console:
    """Return a console on standard output, or with `errors` on standard error.

    No text is taken for rich's markup or for an emoji: a class may be named ``[/red]``.
    """
    return Console(stderr=errors, highlight=highlight, width=width, markup=False, emoji=False)

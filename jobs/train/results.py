"""What ``neurofleet results`` does for learners whose scores are one or more tables."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_found(
    out: str,
    as_json: bool,
    facts_in: Callable[[str], dict[str, Any]],
    print_evaluation: "Callable[[dict[str, Any], Console], None]",
) -> None:
    """Print what a folder's job has found, as tables or as JSON.

    Parameters
    ----------
    facts_in : callable
        Reads it.
    print_evaluation : callable
        Prints it as tables.

    Raises
    ------
    UsageError
        The job has not ended.
    """
    from rich.console import Console

    found = facts_in(out)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print_evaluation(found, Console())

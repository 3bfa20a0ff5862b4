"""Below which probability the label of a cell becomes `unknown`, as the user asks for it."""

from collections.abc import Mapping
from typing import Any

from neurofleet.errors import UsageError
from neurofleet.learners.unknown_labels import threshold_for_coverage

VALIDATION = "validation_top_probability"
"""The fact of a model that holds the calibrated top probabilities of its validation cells."""


def refuse_two_thresholds(unknown_below: float | None, coverage: float | None) -> None:
    """Refuse two ways of asking at once, and a coverage of nothing.

    Raises
    ------
    UsageError
    """
    if unknown_below is not None and coverage is not None:
        raise UsageError("Give --unknown-below or --coverage, one of the two.")
    if coverage is not None and not 0 < coverage <= 1:
        raise UsageError(f"--coverage lies above 0 and at most at 1, found {coverage:g}.")


def threshold_for(unknown_below: float | None, coverage: float | None, facts: Mapping[str, Any], owner: str) -> float:
    """Return the threshold; 0, which calls nothing unknown, when none was asked for.

    Parameters
    ----------
    facts : mapping
        Of a model, or of the predictions that it made.
    owner : str
        Whose facts they are, for the message.

    Raises
    ------
    UsageError
        If it cannot be found.
    """
    refuse_two_thresholds(unknown_below, coverage)
    if coverage is None:
        return unknown_below or 0.0
    if not facts.get(VALIDATION):
        raise UsageError(
            f"--coverage {coverage:g} needs the probabilities of the model's validation cells, and {owner}"
            " does not hold them: it was trained without validation cells, or by an earlier neurofleet."
            " Give --unknown-below, or train again with validation cells."
        )
    return threshold_for_coverage(facts[VALIDATION], coverage)

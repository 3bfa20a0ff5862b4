"""Run a function in a process of its own: NEURON simulates all cells of a process together."""

from collections.abc import Callable
from typing import Any

from neurofleet.fresh_process import call


def in_fresh_process(function: Callable, *arguments: Any) -> Any:
    """Return ``function(*arguments)`` as a new interpreter computes it; both must be importable by name."""
    return call(function, *arguments, limit_s=240.0)

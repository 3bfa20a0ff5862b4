"""A budget of integration steps, checked inside NEURON's own run loop.

A runaway model takes millions of variable steps. Counting them ends such a run at the same step on every
machine, where a clock would end it anywhere. The standard run system calls the hoc procedure ``advance``
once a step and looks at ``stoprun`` after each, so a counter there changes nothing in the integration.
"""

from typing import Any

_COUNTER = """
nf_steps = 0
nf_max_steps = 0
proc advance() {
    nf_steps += 1
    if (nf_max_steps > 0 && nf_steps > nf_max_steps) {
        stoprun = 1
    } else {
        fadvance()
    }
}
"""


class BudgetExceeded(Exception):
    """An evaluation used up its integration steps before it reached its end."""


class StepBudget:
    """Count integration steps of one evaluation and stop the run that exceeds them.

    Parameters
    ----------
    h : neuron.hoc.HocObject
        NEURON's top-level interpreter, with ``stdrun.hoc`` loaded.
    max_steps : int or None
        Steps that one evaluation (all its protocols together) may take; None counts without a limit.
    """

    def __init__(self, h: Any, max_steps: int | None = None) -> None:
        h.load_file("stdrun.hoc")
        if not hasattr(h, "nf_steps"):
            h(_COUNTER)
        self._h = h
        self.max_steps = max_steps

    def start(self) -> None:
        """Begin a new evaluation."""
        self._h.nf_steps = 0
        self._h.nf_max_steps = self.max_steps or 0

    @property
    def steps(self) -> int:
        """Steps taken since `start`."""
        return int(self._h.nf_steps)

    def check(self) -> None:
        """Raise `BudgetExceeded` if the last run was stopped by the budget."""
        if self.max_steps and self.steps > self.max_steps:
            raise BudgetExceeded(f"more than max_steps = {self.max_steps} integration steps")

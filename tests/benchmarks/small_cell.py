"""The demo cell as a benchmark model: no data from outside, a known answer, all stages."""

import functools
import tempfile
from pathlib import Path
from typing import Any


@functools.cache
def small_subject(recorded: Path | None = None) -> Any:
    """Return the demo cell, recorded and prepared as a job would; `recorded` is a folder that holds its recordings."""
    from neurofleet.jobs.demo import JOB, make_input
    from neurofleet.jobs.fit.fit_inputs import prepare
    from neurofleet.jobs.job_file import parse_job

    with tempfile.TemporaryDirectory() as name:
        if recorded is None:
            make_input(Path(name))
        return prepare(parse_job(JOB, "demo.yaml", "demo"), recorded or Path(name))[0]


def small_problem(stage: int, recorded: Path | None = None) -> Any:
    """Return what stage number `stage` (0 passive, 1 ih, 2 active) searches.

    The stages before are taken as having found the known parameters.
    """
    from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS

    subject = small_subject(recorded)
    earlier = subject.problem(stage - 1, None).names if stage else ()
    winner = {name: KNOWN_PARAMETERS[name] for name in earlier}
    return subject.problem(stage, winner or None)


def small_active_evaluator() -> Any:
    """Return the BluePyOpt evaluator of the active stage, as the search runs it."""
    return small_problem(2).model.build_evaluator()


def small_passive_evaluator() -> Any:
    """Return the BluePyOpt evaluator of the passive stage."""
    return small_problem(0).model.build_evaluator()

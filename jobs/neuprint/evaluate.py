"""The run of an evaluation: one table of methods under splits that are stored once for all of them."""

from pathlib import Path

from jobs.carrying_out import Opened, carry_out
from jobs.neuprint.evaluations import SPLITS, do_all, payloads
from jobs.neuprint.inputs import read_inputs
from jobs.neuprint.run import write_scores
from jobs.neuprint.spec import EvaluateSpec
from jobs.train.folder import EVALUATION
from jobs.train.pieces import keep
from jobs.train.workers import connected, most, workers_of


def run_evaluate(spec: EvaluateSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Evaluate methods with everything kept in `out`, or go on with it there; raises as `carry_out` does."""
    carry_out(
        spec,
        folder,
        out,
        lambda: read_inputs(spec, folder),
        lambda run: _evaluate(run, address, cpus),
        EVALUATION,
    )


def _evaluate(run: Opened, address: str | None, cpus: int | None) -> None:
    from jobs.neuprint.report import write_evaluation_report
    from jobs.neuprint.results import print_evaluation
    from learners.split_files import write_splits

    spec, inputs, out = run.spec, run.inputs, run.out
    workers = workers_of(spec, address)
    write_splits(out / SPLITS, inputs.splits)
    wanted = payloads(spec, inputs, out)
    with connected(workers, address, cpus):
        do_all(wanted, most(workers), run.console)
    told = write_scores(run, wanted)
    write_evaluation_report(out, told)
    keep(out / EVALUATION, told, indent=1)
    print_evaluation(told, run.console)

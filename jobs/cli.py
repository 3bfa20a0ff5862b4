"""The command line: ``neurofleet run | plan | results | report | demo``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="neurofleet",
    help="Fit populations of NEURON models to recordings, here or on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)]
RunFolder = Annotated[str, typer.Argument(metavar="OUT", help="The folder of a run.", show_default=False)]


@app.command()
def run(
    job: JobFile,
    out: Annotated[str, typer.Option(metavar="OUT", help="Where results go; resumed if it holds this job.")],
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster (auto or HOST:PORT); without it, Ray runs here.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs to use; all by default.")] = None,
) -> None:
    """Run a job, or resume it: the same command goes on where the run folder ends."""
    from jobs.run import run_job

    run_job(job, out, address=address, cpus=cpus)


@app.command()
def plan(job: JobFile) -> None:
    """Say what a job will do and cost, without doing it."""
    from jobs.plan import print_plan

    print_plan(job)


@app.command()
def results(
    out: RunFolder,
    query: Annotated[
        str | None, typer.Option(help="SQL over the views evaluations, hall_of_fame and pooled.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Summarise a run cell by cell, or query its tables with SQL."""
    from jobs.results import results_command

    results_command(out, query, as_json)


@app.command()
def report(out: RunFolder) -> None:
    """Write OUT/report.html: one self-contained page with the pictures of a run."""
    from jobs.report import write_report

    typer.echo(write_report(out, tell=lambda text: typer.echo(text, err=True)))


@app.command()
def demo(
    out: Annotated[
        str, typer.Option(metavar="OUT", help="Where its input and results go.")
    ] = "neurofleet-demo",
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs to use; all by default.")] = None,
) -> None:
    """Make a small cell with known parameters, record it, and fit it through all stages."""
    from jobs.demo import run_demo

    run_demo(Path(out), cpus=cpus)


def main() -> None:
    """Entry point: errors that are the user's or the machine's become one paragraph and an exit code."""
    try:
        app(standalone_mode=False)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"neurofleet: {error}", file=sys.stderr)
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    import click

    if isinstance(error, click.ClickException):
        error.show()
        sys.exit(error.exit_code)
    from cluster.errors import ClusterError
    from jobs.errors import Interrupted, JobError, UsageError
    from neurosim.errors import InputError

    if isinstance(error, UsageError | InputError):
        return WRONG_INPUT
    if isinstance(error, Interrupted):
        return INTERRUPTED
    if isinstance(error, JobError):
        return FAILED
    return error.exit_code if isinstance(error, ClusterError) else None

"""The command line."""

import json
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from neurofleet import __version__
from neurofleet.errors import Interrupted, NeurofleetError, UsageError, did_you_mean, missing_extra
from neurofleet.input_paths import is_url, named, with_home
from neurofleet.jobs.deploy_command import app as deploy_app

app = typer.Typer(
    name="neurofleet",
    help="Fit populations of NEURON models, and train cell-identity learners, here or on a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

JOBS, FITS, LEARNERS = "Jobs", "Fits", "Learners"
RESULTS, CLUSTERS = "Results", "Clusters"

JobsAddress = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The cluster's dashboard, http://HOST:8265.",
        show_default=False,
    ),
]
Submitted = Annotated[
    str,
    typer.Argument(metavar="ID", help="A job's name (its latest attempt), or NAME-a1.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="YAML",
        help="What the arrays of units or recordings are called, their rates and units: a file with the keys of the"
        " job's `layout:`, or these keys, such as '{waveform_rate_hz: 30000}'.",
        show_default=False,
    ),
]


def _be_quiet(wanted: bool) -> None:
    if wanted:
        from neurofleet.jobs.terminal import silence

        silence()


Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_be_quiet, help="Print warnings, errors and results only, no progress."),
]

JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)]
PartOfCells = Annotated[
    str | None,
    typer.Option(metavar="K/N", help="Of a fit of many cells, every Nth from the Kth on: for one of N drivers."),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="A first picture in about two minutes, with much smaller budgets; marked as such."),
]
RunFolder = Annotated[str, typer.Argument(metavar="OUT", help="The folder of a run.", show_default=False)]


@app.command(rich_help_panel=JOBS)
def run(
    job: JobFile,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="OUT",
            help="Where results go, in place of the job's `out:`; resumed if it holds this job.",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster (auto or HOST:PORT); without it, Ray runs here.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs to use; all by default.")] = None,
    part: PartOfCells = None,
    quick: Quick = False,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="URL|COMMAND",
            help="Who is told how it ended: a URL (JSON, as Slack takes it), or a command; else NEUROFLEET_NOTIFY.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run a job, or resume it: the same command goes on where the run folder ends."""
    from neurofleet.jobs.run_job import run_job

    run_job(job, out, address=address, cpus=cpus, part=part, quick=quick, notify=notify)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"neurofleet {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fit populations of NEURON models, and train cell-identity learners, here or on a Ray cluster."""


@app.command(name="help", rich_help_panel=JOBS)
def help_on(
    context: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(metavar="[TOPIC]", help="A topic or a command; without it, all topics.", show_default=False),
    ] = None,
) -> None:
    """Print a short page on a topic: resume, results, clusters, formats, engines, exit-codes, environment."""
    from neurofleet.jobs.help_topics import TOPICS

    parent: Any = context.parent
    if topic is None:
        width = max(map(len, TOPICS))
        for name, about in TOPICS.items():
            typer.echo(f"{name:{width}}  {about.title}")
        typer.echo("neurofleet help TOPIC prints one; neurofleet COMMAND --help describes a command.")
    elif topic in TOPICS:
        typer.echo(f"{TOPICS[topic].title}\n\n{TOPICS[topic].text}\n\nMore: docs/{TOPICS[topic].page}")
    elif command := parent.command.commands.get(topic):
        typer.echo(command.get_help(typer.Context(command, info_name=topic, parent=parent)))
    else:
        known = [*TOPICS, *parent.command.commands]
        raise UsageError(
            f"help {topic}: there is no such topic{did_you_mean(topic, known)}. Topics: {', '.join(TOPICS)}."
        )


@app.command(rich_help_panel=JOBS)
def plan(job: JobFile, quick: Quick = False, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Say what a job will do and cost, without doing it."""
    from neurofleet.jobs.run_job import print_plan

    print_plan(job, quick, as_json)


@app.command(rich_help_panel=JOBS)
def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="fit, sims, hippie, neuprint, validate, sensitivity, synapse, sample, posterior, compare or analyse.",
            show_default=False,
        ),
    ],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="What the job is to read.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="JOB.yaml", help="The job file; by default KIND.yaml in the working folder.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier job file.")] = False,
    layout: Layout = None,
) -> None:
    """Look at files and write a job file for them, with what was seen as comments."""
    from neurofleet.jobs.drafts.new_command import new_command

    new_command(kind, files, out, overwrite, layout)


@app.command(rich_help_panel=JOBS)
def schema(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help="A kind of job; without it, all of them.", show_default=False),
    ] = None,
) -> None:
    """Print the keys of a job file as JSON Schema, for editors: neurofleet schema fit > fit.schema.json."""
    from neurofleet.jobs.job_schema import job_schema

    typer.echo(json.dumps(job_schema(kind), indent=2))


@app.command(name="inspect", rich_help_panel=FITS)
def inspect_data(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording or a morphology.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="The picture; by default FILE.inspect.png in the working folder."),
    ] = None,
    electrode: Annotated[str | None, typer.Option(help="Of a recording with several: its name or a pattern.")] = None,
    junction_potential: Annotated[
        float, typer.Option(metavar="MV", help="Liquid-junction potential of a recording, subtracted.")
    ] = 14.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture.")] = False,
) -> None:
    """Say what a recording or a morphology holds and what looks odd about it, with a picture."""
    from neurofleet.jobs.inspect_file import InspectOptions, inspect_command

    inspect_command(file, out, InspectOptions(electrode, junction_potential), overwrite)


@app.command(rich_help_panel=RESULTS)
def results(
    out: Annotated[
        str,
        typer.Argument(metavar="OUT", help="The folder of a run, or one with runs below it.", show_default=False),
    ],
    query: Annotated[str | None, typer.Option(help="SQL, one SELECT over the views of all runs there.")] = None,
    views: Annotated[
        bool,
        typer.Option("--views", help="List the views: columns, types, rows, and which runs they come from."),
    ] = False,
    as_json: AsJson = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Merge the generation files of finished cells, verified.")
    ] = False,
) -> None:
    """Summarise a run or list those below a folder, query the tables of all with SQL, or compact files."""
    if compact:
        from neurofleet.jobs.results.results_command import compact_command

        compact_command(out, query, as_json, views)
        return
    from neurofleet.jobs.results.results_command import results_command

    results_command(out, query, as_json, views)


@app.command(rich_help_panel=RESULTS)
def report(out: RunFolder, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Write OUT/report.html: one self-contained page with the pictures of a run or a training."""
    from neurofleet.jobs.job_kinds import write_report
    from neurofleet.jobs.terminal import print_json

    place = write_report(out, print_line=lambda text: None if quiet else typer.echo(text, err=True))
    if as_json:
        print_json({"report": place})
    else:
        typer.echo(place)


@app.command(rich_help_panel=JOBS)
def demo(
    out: Annotated[str, typer.Option(metavar="OUT", help="Where its input and results go.")] = "neurofleet-demo",
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs to use; all by default.")] = None,
) -> None:
    """Make a small cell with known parameters, record it, and fit it through all stages."""
    from neurofleet.jobs.demo import run_demo

    run_demo(Path(out), cpus=cpus)


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The folder of a trained model; or a published one: NAME@VERSION, or NAME for the newest.",
        show_default=False,
    ),
]
Query = Annotated[
    list[str],
    typer.Argument(metavar="QUERY", help="Files of cells (docs/formats.md), patterns or URLs.", show_default=False),
]
Layer = Annotated[str, typer.Option(help="Which values: X, raw, or the name of a layer.")]
TargetSum = Annotated[
    float | None,
    typer.Option(min=0.0, help="Counts per cell that log values were scaled to, where it cannot be seen."),
]
GeneNames = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="The column of var that names genes as the model does, such as gene_ids; ignore-version …",
    ),
]
ValueKind = Annotated[
    str | None,
    typer.Option("--values", metavar="KIND", help="What values are, where it cannot be seen: counts, log1p, log2 …"),
]
MostMissing = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Refuse a query that lacks a larger share of the model.")
]
UnknownBelow = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, help="What is unknown: a cell, unit or neuron whose largest probability is below this."
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(help="Choose this limit so that such a share of the model's validation cells has a label."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of these names.")]


def _model_folder(model: str) -> Path:
    """Return the folder of a model that is named by its path, NAME@VERSION or URL."""
    from neurofleet.learners.published_models import local_model

    return local_model(model)


@app.command(rich_help_panel=LEARNERS)
def predict(
    model: Model,
    query: Query,
    out: Annotated[Path, typer.Option(help="The table, one row a cell.")] = Path("predictions.parquet"),
    top: Annotated[int, typer.Option(min=1, help="Likeliest classes of each cell in the table.")] = 3,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Probabilities of all classes too.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="The table as CSV too.")] = False,
    write_h5ad: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A copy of the query with predictions and embedding in obs, obsm and uns."),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="A page that shows them, too, beside the table.")] = False,
    majority: Annotated[
        bool, typer.Option("--majority", help="Smooth labels over clusters of the query, in further columns.")
    ] = False,
    majority_share: Annotated[
        float, typer.Option(metavar="S", help="Least share of a cluster that a label must have; else unknown.")
    ] = 0.0,
    unknown_below: UnknownBelow = None,
    coverage: Coverage = None,
    layer: Layer = "X",
    target_sum: TargetSum = None,
    values: ValueKind = None,
    gene_names: GeneNames = None,
    close_missing: Annotated[
        bool, typer.Option("--close-missing", help="Masks may not choose genes that the query lacks.")
    ] = False,
    most_missing: MostMissing = 0.8,
    address: Annotated[str | None, typer.Option(help="Predict on a running Ray cluster (auto or HOST:PORT).")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes of this machine that predict; 0 is this one.")] = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict the class of each cell by a trained SIMS model; `embed` names units and neurons."""
    from neurofleet.jobs.learners.prediction import PredictionOptions, Reading, predict_command

    predict_command(
        _model_folder(model),
        Reading(tuple(named(query)), layer, target_sum, most_missing, close_missing, values, gene_names),
        PredictionOptions(
            out,
            top,
            probabilities,
            csv,
            write_h5ad,
            unknown_below,
            coverage,
            overwrite,
            majority_share if majority or majority_share else None,
            report,
        ),
        address=address,
        workers=workers,
        as_json=as_json,
    )


@app.command(rich_help_panel=LEARNERS)
def embed(
    model: Model,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Units or recordings.", show_default=False)],
    layout: Layout = None,
    out: Annotated[Path, typer.Option(help="The table, one row a unit or neuron.")] = Path("embeddings.parquet"),
    write_h5ad: Annotated[Path | None, typer.Option(metavar="FILE", help="The same for scanpy.")] = None,
    unknown_below: UnknownBelow = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Embed units or neurons by a HIPPIE or NeuPRINT model, and name them. For cells: predict --write-h5ad."""
    from neurofleet.jobs.learners.embedding import embed_command

    embed_command(_model_folder(model), named(files), layout, out, write_h5ad, overwrite, as_json, unknown_below)


@app.command(rich_help_panel=LEARNERS)
def relabel(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="What predict wrote.", show_default=False)],
    unknown_below: UnknownBelow = None,
    coverage: Coverage = None,
    out: Annotated[
        Path | None, typer.Option(help="Another table; without it this one is changed.", show_default=False)
    ] = None,
    write_h5ad: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What predict --write-h5ad wrote: its labels too.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Set another limit for unknown cells in predictions that are there, without the model."""
    from neurofleet.jobs.learners.prediction import relabel_command

    relabel_command(predictions, unknown_below, coverage, out, overwrite, write_h5ad)


@app.command(rich_help_panel=LEARNERS)
def explain(
    model: Model,
    query: Query,
    out: Annotated[Path, typer.Option(help="A folder for tables, pictures and explain.html.")] = Path("explain"),
    weighting: Annotated[
        str, typer.Option(help="How steps' masks are added up: by their decision, or uniform.")
    ] = "decision",
    cells: Annotated[
        str, typer.Option(metavar="ID,ID", help="Explain these cells one by one too.", show_default=False)
    ] = "",
    cells_file: Annotated[
        Path | None, typer.Option(help="The same from a file, one id a line.", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Genes of each list.")] = 20,
    write_h5ad: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A copy of the query with genes x classes in varm.", show_default=False),
    ] = None,
    layer: Layer = "X",
    target_sum: TargetSum = None,
    values: ValueKind = None,
    gene_names: GeneNames = None,
    most_missing: MostMissing = 0.8,
    overwrite: Overwrite = False,
) -> None:
    """Say which genes speak for each class, and how far members of the model agree."""
    from neurofleet.jobs.learners.explanation import ExplanationOptions, explain_command
    from neurofleet.jobs.learners.prediction import Reading

    ids = tuple(name.strip() for name in cells.split(",") if name.strip())
    explain_command(
        _model_folder(model),
        Reading(tuple(named(query)), layer, target_sum, most_missing, values=values, gene_names=gene_names),
        ExplanationOptions(out, weighting, ids, cells_file, top, overwrite, write_h5ad),
    )


@app.command(rich_help_panel=LEARNERS)
def models(
    where: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WHERE...]",
            help="Folders or URLs (https://, s3://, hf://ORG/NAME); without them those of NEUROFLEET_MODELS.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List published models: what they name, what they were trained on, and how good they are."""
    from neurofleet.jobs.learners.models_command import models_command

    models_command(where or (), as_json)


@app.command(rich_help_panel=LEARNERS)
def model_card(model: Model, as_json: AsJson = False) -> None:
    """Print the card of a model: training data, classes, scores beside baselines, calibration, limits, licence."""
    from neurofleet.jobs.learners.models_command import card_command

    card_command(model, as_json)


@app.command(rich_help_panel=LEARNERS)
def publish(
    model: Model,
    to: Annotated[
        str, typer.Argument(metavar="TO", help="A folder, or a bucket (s3://bucket/folder).", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="By default that of the training job.", show_default=False)] = None,
    version: Annotated[
        str | None, typer.Option(help="Such as 1 or 1.2; by default the next whole number.", show_default=False)
    ] = None,
    licence: Annotated[
        str,
        typer.Option("--licence", "--license", help="SPDX, such as CC-BY-4.0, or 'other: TEXT'.", show_default=False),
    ] = "",
    author: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Once for each.", show_default=False)] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="Of the training data.", show_default=False)] = "",
    species: Annotated[str, typer.Option(help="Of the training data.", show_default=False)] = "",
    technology: Annotated[str, typer.Option(help="Of the training data, such as 10x 3' v3.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Write a trained model for others: what prediction needs, a card, and an entry in TO/index.json."""
    from neurofleet.jobs.learners.publishing import Stated, publish_command

    stated = Stated(licence.strip(), tuple(author or ()), description, species, technology)
    publish_command(model, to, name, version, stated, as_json)


@app.command(rich_help_panel=FITS)
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="ARCHIVE:NAME...",
            help="allen:NUMBER of a specimen, dandi:DANDISET/PATH of a file or folder, or neuromorpho:NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A folder for each goes in here; by default the archive's name.", show_default=False
        ),
    ] = None,
    models: Annotated[
        bool, typer.Option("--models", help="Published all-active and perisomatic models of Allen cells too.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The archive, or a mirror of it; else NEUROFLEET_ALLEN_ADDRESS and the like.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Download recordings and morphologies of the Allen Cell Types Database, DANDI and NeuroMorpho.Org."""
    from neurofleet.jobs.archive_fetch import fetch_command

    fetch_command(names, out, address, models)


@app.command(rich_help_panel=FITS)
def recipe(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A recipe; without it, all are listed.", show_default=False),
    ] = None,
) -> None:
    """Print a recipe that neurofleet has, as the start of your own: neurofleet recipe all-active > my-recipe.yaml."""
    from neurofleet.neurosim.cells.recipe import built_in_recipes, recipe_text

    if name is None:
        width = max(map(len, built_in_recipes()))
        for known, about in built_in_recipes().items():
            typer.echo(f"{known:{width}}  {about}")
    else:
        typer.echo(recipe_text(name), nl=False)


@app.command(rich_help_panel=FITS)
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FIT.json|MODEL",
            help="The run of a fit, an Allen fit file, or a SIMS model: its folder, or NAME@VERSION.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|FORMAT",
            help="A new folder; or sonata, allen, hoc or onnx alone, then the folder is CELL-FORMAT, or MODEL-onnx.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="sonata, allen or hoc, by default sonata; of a SIMS model onnx.", show_default=False
        ),
    ] = None,
    cell: Annotated[str | None, typer.Option(metavar="ID", help="Which cell, where the run has several.")] = None,
    rank: Annotated[int, typer.Option(help="Which model of its hall of fame; 1 is the best.")] = 1,
    morphology: Annotated[Path | None, typer.Option(metavar="FILE", help="Of a fit file.")] = None,
    axon: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="Of a fit file: stub (the default), legacy-stub, legacy-stub-60um or full.",
        ),
    ] = None,
    mechanisms: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Mod files that a fit file names; by default modfiles beside it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model for use elsewhere: SONATA for BMTK, an Allen fit file, a hoc template; of a SIMS model ONNX."""
    from neurofleet.jobs.learners.onnx_export import FIT_FORMATS, ONNX, export_onnx, is_trained_model

    is_published = "@" in source or is_url(source) or ONNX in (format, to)
    place = _model_folder(source) if is_published else Path(source)
    if ONNX in (format, to) or is_trained_model(place):
        if (
            (format or ONNX) != ONNX
            or to in FIT_FORMATS
            or (cell, rank, morphology, axon, mechanisms) != (None, 1, None, None, None)
        ):
            if is_trained_model(place):
                from neurofleet.learners.model_folder import read_model

                read_model(place, "sims")  # refuses those that cannot be exported
            raise UsageError(
                f"{source}: a trained model is written as onnx, and --cell, --rank, --morphology, --axon and"
                " --mechanisms belong to fits. Write neurofleet export MODEL --to onnx."
            )
        export_onnx(place, None if to in (None, ONNX) else Path(str(to)), as_json)
        return
    from neurofleet.jobs.export import FORMATS, OTHER_FORMATS, export_command

    if format is None and to in FORMATS:
        to, format = None, to
    elif format is None and to is not None and to.casefold() in OTHER_FORMATS:
        raise UsageError(
            f"--to {to}: a model can be exported as {', '.join(FORMATS)}, not as {to}. For a folder of this name, "
            f"write --to ./{to}."
        )
    elif format is None and to is not None and (close := get_close_matches(to.casefold(), FORMATS, cutoff=0.8)):
        raise UsageError(
            f"--to {to}: is the format {close[0]} meant? Write --to {close[0]}; for a folder of this name, "
            f"--format {close[0]} --to {to}."
        )
    folder = None if to is None else Path(to)
    export_command(place, folder, format or "sonata", cell, rank, morphology, axon, mechanisms, as_json)


@app.command(rich_help_panel=RESULTS)
def serve(
    root: Annotated[
        str | None,
        typer.Argument(metavar="ROOT", help="The folder above your runs; a URI too.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; one that others reach needs --users.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8700,
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file of users, who sign in with passwords.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A name under which a proxy passes requests on.", show_default=False),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="A folder of trained models besides ROOT.", show_default=False),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Whoever comes may only look.")] = False,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A cluster that jobs can be submitted to: its dashboard, http://HOST:8265."),
    ] = None,
    user_header: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The header in which a proxy names the user: X-Remote-User."),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="IP", help="The proxy whose --user-header is believed; a network too."),
    ] = None,
    add_user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Ask for a password and add this user to --users FILE.")
    ] = None,
    role: Annotated[
        str, typer.Option(help="Of the user, or of those whom a proxy names: view, predict or submit.")
    ] = "view",
) -> None:
    """Show the runs below a folder in a browser, on this machine."""
    from neurofleet.jobs.serve.access import Proxy, Role

    if role not in Role.__members__:
        raise UsageError(f"--role: expected view, predict or submit, found {role}.")
    if add_user is not None:
        if users is None:
            raise UsageError("--add-user needs the file that the user is added to: --users FILE.")
        from neurofleet.jobs.serve.serve_command import add_user_command

        password = typer.prompt(f"Password of {add_user}", hide_input=True, confirmation_prompt=True)
        add_user_command(add_user, password, Role[role], users)
        return
    if root is None:
        raise UsageError("Name the folder above your runs: neurofleet serve ROOT.")
    from neurofleet.jobs.serve.serve_command import serve_command

    if user_header is None and trusted_proxy:
        raise UsageError("--trusted-proxy says whose --user-header is believed: name that header, too.")
    proxy = None if user_header is None else Proxy.named(user_header, trusted_proxy or (), Role[role])
    serve_command(root, host, port, users, name or (), read_only, models or (), address, proxy)


app.add_typer(deploy_app, rich_help_panel=CLUSTERS)


@app.command(rich_help_panel=CLUSTERS)
def doctor(
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster (auto or HOST:PORT), whose nodes are all asked.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="OUT", help="Where results are to go: is it within reach?")] = None,
    as_json: AsJson = False,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.zip",
            help="Check nothing; write a file for a bug report: versions and, with --out, the job, events and last log"
            " lines of that run. No data, no secrets.",
        ),
    ] = None,
) -> None:
    """Check this machine, or a cluster node by node, and say what to do."""
    if bundle is not None:
        from neurofleet.jobs.doctor.bundle import write_bundle

        write_bundle(bundle, out)
        return
    from neurofleet.jobs.doctor.doctor_command import doctor as examine

    examine(address, out, as_json)


@app.command(rich_help_panel=CLUSTERS)
def submit(
    job: JobFile,
    address: JobsAddress,
    out: Annotated[
        str | None,
        typer.Option(metavar="OUT", help="Where results go: storage that the cluster writes, or a URI."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print the job's log until it ends.")] = False,
    python: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The Python on the head; by default the one Ray runs with."),
    ] = None,
    part: PartOfCells = None,
    quick: Quick = False,
    notify: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Is told how the job ended, by the cluster; JSON, as Slack takes it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a job and its files to a Ray cluster, or resume it there; it runs on without this machine."""
    from neurofleet.jobs.remote.submit import submit_command

    submit_command(job, address, out, follow, python, part, quick, as_json, notify)


@app.command(rich_help_panel=RESULTS)
def status(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="OUT|ID", help="A run folder, or a submitted job.", show_default=False)
    ],
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_API_SERVER_ADDRESS",
            metavar="URL",
            help="The cluster's dashboard, http://HOST:8265, for a submitted job.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how far a run is, from its folder; or how a submitted job is, from its cluster."""
    source = context.get_parameter_source("address")
    given = source is not None and source.name == "COMMANDLINE"
    if not given and (address is None or "://" in what or Path(what).is_dir()):
        from neurofleet.jobs.status import print_status

        print_status(what, as_json)
        return
    from neurofleet.jobs.remote.remote_jobs import status_command

    assert address is not None
    status_command(what, address, as_json)


@app.command(rich_help_panel=CLUSTERS)
def logs(
    job: Submitted,
    address: JobsAddress,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print the log of a submitted job."""
    from neurofleet.jobs.remote.remote_jobs import logs_command

    logs_command(job, address, follow)


@app.command(rich_help_panel=CLUSTERS)
def cancel(job: Submitted, address: JobsAddress) -> None:
    """End a submitted job; submitting it again resumes it."""
    from neurofleet.jobs.remote.remote_jobs import cancel_command

    cancel_command(job, address)


@app.command(name="list", rich_help_panel=CLUSTERS)
def list_jobs(address: JobsAddress, as_json: AsJson = False) -> None:
    """List the jobs that were submitted to a cluster."""
    from neurofleet.jobs.remote.remote_jobs import list_command

    list_command(address, as_json)


@app.command(hidden=True)
def wait_for_nodes(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT")],
    nodes: Annotated[int, typer.Option(min=1)] = 1,
    limit: Annotated[float, typer.Option(min=0, help="Seconds.")] = 300.0,
) -> None:
    """Wait until a cluster that is starting has its nodes."""
    from neurofleet.cluster.ray.admission import wait_for_nodes as wait

    wait(address, nodes, limit, lambda text: typer.echo(text, err=True))


@app.command(hidden=True)
def drive(
    job: JobFile,
    out: Annotated[str, typer.Option()],
    witness: Annotated[Path | None, typer.Option()] = None,
    here_only: Annotated[bool, typer.Option("--here-only")] = False,
    part: PartOfCells = None,
) -> None:
    """Run a submitted job on the head of its cluster."""
    from neurofleet.jobs.remote.driver import drive as drive_job

    drive_job(job, out, witness, here_only, part)


def main() -> None:
    """Entry point: an error that a user can mend becomes one paragraph and an exit code, here and nowhere else."""
    try:
        sys.exit(app([*map(_at_home, sys.argv[1:])], standalone_mode=False) or 0)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted.", Interrupted.exit_code)
    except NeurofleetError as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        if (message := missing_extra(error)) is None:
            raise
        _fail(message, UsageError.exit_code)
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error, of whichever click typer carries
        if not callable(show):
            raise
        show()
        sys.exit(UsageError.exit_code)


def _at_home(argument: str) -> str:
    """Return an argument with ``~`` replaced where the shell leaves it: in quotes, and behind ``--out=``."""
    option, sign, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{sign}{with_home(value)}" if re.match(r"~\w*(/|$)", value) else argument


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"neurofleet: {message}", file=sys.stderr)
    sys.exit(exit_code)

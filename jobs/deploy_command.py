"""``neurofleet deploy TARGET``: a command for each target, made from the options that it declares."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from neurofleet.cluster.deploy import TARGETS, Target, fill_in
from neurofleet.cluster.deploy.deploy_targets import CountOption, Option, PathOption
from neurofleet.jobs.pipelines import PIPELINES

app = typer.Typer(
    name="deploy",
    help="Print the file that starts a cluster (docs/clusters.md), or a workflow from raw data to results"
    " (docs/how-to/pipelines.md). Its first lines say how.",
    no_args_is_help=True,
    add_completion=False,
)


def _command(target: Target) -> Callable[..., None]:
    def print_file(**given: Any) -> None:
        text = fill_in(target, given)
        for option in target.options:
            if isinstance(option, PathOption) and (note := option.note(given[option.name])):
                typer.echo(f"neurofleet: {note}", err=True)
        typer.echo(text, nl=False)

    parameters = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(option),
            annotation=_annotation(option),
        )
        for option in target.options
    ]
    print_file.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    print_file.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return print_file


def _default(option: Option) -> Any:
    if option.required:
        return inspect.Parameter.empty
    if option.many:
        return []
    return None if callable(option.default) else option.default


def _annotation(option: Option) -> Any:
    kind: Any = int if isinstance(option, CountOption) else list[str] if option.many else str
    if not option.required and _default(option) is None:
        kind = kind | None
    return Annotated[kind, typer.Option(help=option.help)]


for _target in (*TARGETS.values(), *PIPELINES):
    app.command(_target.name, help=f"{_target.help} Usual file name: {_target.file}.")(_command(_target))

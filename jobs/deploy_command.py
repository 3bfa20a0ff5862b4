"""``neurofleet deploy TARGET``: a command for each target, made from the options that it declares."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from neurofleet.cluster.deploy import TARGETS, Target, render
from neurofleet.cluster.deploy.deploy_targets import CountOption, Option

app = typer.Typer(
    name="deploy",
    help="Print the file with which a cluster is started. Its first lines, and docs/clusters.md, say how.",
    no_args_is_help=True,
    add_completion=False,
)


def _command(target: Target) -> Callable[..., None]:
    def print_file(**given: Any) -> None:
        typer.echo(render(target.name, given), nl=False)

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


for _target in TARGETS.values():
    app.command(_target.name, help=f"{_target.help} Usual file name: {_target.file}.")(_command(_target))

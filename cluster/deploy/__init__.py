"""The files with which a lab starts a cluster: `render` fills one in, `TARGETS` says which there are.

`fill_in` does the same for a target that another package declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neurofleet.cluster.deploy.deploy_targets import TARGETS, OptionRefused, OptionValue, Target, flag
from neurofleet.errors import did_you_mean

__all__ = ["TARGETS", "OptionRefused", "Target", "fill_in", "render"]


def render(target: str, options: Mapping[str, OptionValue | Sequence[str]] | None = None) -> str:
    """Return the deployment file of a target, filled in.

    Parameters
    ----------
    target : str
        A key of `TARGETS`.
    options : mapping, optional
        Option -> value, named as in `Target.options`. What is left out or None has its default.

    Raises
    ------
    OptionRefused
        The target is unknown; or an option is unknown, missing or cannot be used.
    """
    if target not in TARGETS:
        known = ", ".join(TARGETS)
        raise OptionRefused(f"{target!r}{did_you_mean(target, TARGETS)}: expected one of the targets {known}.")
    return fill_in(TARGETS[target], options)


def fill_in(target: Target, options: Mapping[str, OptionValue | Sequence[str]] | None = None) -> str:
    """Return the file of a target, filled in.

    Parameters
    ----------
    target : Target
    options : mapping, optional
        As of `render`.

    Raises
    ------
    OptionRefused
        An option is unknown, missing or cannot be used.
    """
    known_options = target.options
    given = dict(options or {})
    if unknown := sorted(given.keys() - {option.name for option in known_options}):
        takes = ", ".join(flag(option.name) for option in known_options) or "no options"
        raise OptionRefused(f"{flag(unknown[0])}: the target {target.name} takes {takes}.")
    if missing := [option for option in known_options if option.required and given.get(option.name) is None]:
        raise OptionRefused(
            f"The target {target.name} needs {' and '.join(flag(option.name) for option in missing)}:"
            f" {' '.join(option.help for option in missing)}"
        )
    values = {option.name: option.read(given.get(option.name)) for option in known_options}
    return _fill(target, values)


def _fill(target: Target, values: Mapping[str, OptionValue]) -> str:
    # imported here: the command line lists the targets whenever it starts, and fills one in now and then
    from importlib.metadata import version

    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(target.package),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template(f"{target.name}.j2")
    return template.render(values, version=version("neurofleet"), ray_version=version("ray"))

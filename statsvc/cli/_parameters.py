"""Options for the parameters of a weights request, made from the table of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from statsvc.classes import class_maps
from statsvc.cli._completion import complete_choices
from statsvc.weighting.parameters import PARAMETERS
from statsvc.weighting.value_types import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statsvc.classes.class_maps import ClassMap
    from statsvc.cli._completion import Completion
    from statsvc.weighting.parameter import Parameter


def parameter_options(
    *names: str, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add one option for each of these parameters of a weights request.

    without  aliases to leave out, because the command has another option of that name
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            parameter = PARAMETERS[name]
            flags = [
                f"--{flag.replace('_', '-')}" for flag in (name, *parameter.aliases) if flag not in without
            ]
            command = click.option(
                *flags,
                name,
                metavar=parameter.type.metavar,
                shell_complete=_completion(parameter),
                multiple=parameter.repeatable,
                help=parameter.help(),
            )(command)
        return command

    return add


def _completion(parameter: Parameter) -> Completion | None:
    if not isinstance(parameter.type, Choice):
        return None
    return complete_choices(parameter.type.choices, files=parameter.name == "class_map")


def present_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that the command line sets. An empty text counts as set, so it is rejected."""
    return {
        name: (list(value) if isinstance(value, tuple) else value)
        for name, value in params.items()
        if value not in (None, ())
    }


def pop_class_map_file(params: dict[str, Any], url: str | None) -> ClassMap | None:
    """Remove a class map that is a file from the parameters and return it; None for a built-in map.

    Raises `NotFound` and `InvalidParameter`, and a usage error for a file together with --url.
    """
    text = params.get("class_map")
    if text is None or text == "none" or text in class_maps.BUILTIN:
        return None
    from statsvc.classes import class_map_files

    class_map = class_map_files.resolve(text)
    if url is not None:
        raise click.UsageError(
            f"--class-map {text}: A server accepts only built-in class maps: "
            f"{', '.join(class_maps.BUILTIN)}. Set the dataset's class map with PATCH "
            "/datasets/NAME, or omit --url."
        )
    del params["class_map"]
    return class_map

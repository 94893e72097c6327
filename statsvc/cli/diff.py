"""`statsvc diff`: what differs between two versions, splits or datasets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from statsvc.cli._answers import answer_function
from statsvc.cli._completion import complete_dataset
from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, print_json, url_option, version_number
from statsvc.cli._parameters import parameter_options, present_parameters
from statsvc.cli._tables import print_table
from statsvc.errors import InvalidParameter, nearest
from statsvc.weighting.difference import DISTANCE, FIELDS, difference, exceeding
from statsvc.weighting.parameters import PARAMETERS, STREAM, WeightSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.home import Home


def _parse_limits(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, float]]:
    """Return each limit as (field, number), where 5% is 0.05."""
    limits = []
    for value in values:
        field, separator, text = value.partition(":")
        try:
            limit = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            limit = math.nan
        if not separator or not 0 <= limit < math.inf:
            raise click.BadParameter(f"{value!r} is not a field and a limit. Write, for example, weight:5%.")
        if field not in (*FIELDS, DISTANCE):
            known = (*FIELDS, DISTANCE)
            raise click.BadParameter(
                f"{field!r} is unknown{nearest(field, known)}. Choose one of: {', '.join(known)}."
            )
        limits.append((field, limit))
    return limits


@click.command(short_help="Compare versions, splits, groups or datasets.")
@click.argument("first", shell_complete=complete_dataset)
@click.argument("second", shell_complete=complete_dataset)
@parameter_options(*(name for name in PARAMETERS if name not in ("split", "recipe", *STREAM)))
@click.option(
    "--fail-if",
    "limits",
    multiple=True,
    callback=_parse_limits,
    metavar="FIELD:LIMIT",
    help="Exit with code 1 if pixels, images, share or weight of a class changes by more than LIMIT, such as "
    "weight:5%, or if the distance is above it, such as distance:0.1. Can be repeated.",
)
@url_option
@json_option
@home_options
def diff(
    first: str,
    second: str,
    limits: list[tuple[str, float]],
    url: str | None,
    as_json: bool,
    options: HomeOptions,
    **params: Any,
) -> None:
    """Show how the classes of SECOND differ from those of FIRST.

    Each is NAME, NAME@VERSION or NAME@TAG, and may end in /SPLIT, in a group /RULE:VALUE, or in both:
    street@3/train, street/city:zurich, street/train/city:zurich. The distance is the Jensen-Shannon distance
    of the shares of pixels, from 0 to 1.
    """
    request = present_parameters(params)
    places = [_parsed("first", first), _parsed("second", second)]
    if url is not None:
        from statsvc.client.client import Client

        client = Client(url)
        answers = [
            client.weights(place.name, version=place.version, split=place.split, **request).to_dict()
            for place in places
        ]
    else:
        with options.open() as (home, catalog):
            answers = [_answer(home, catalog, place, request) for place in places]
    result = difference(*answers)
    lines = [line for field, limit in limits for line in exceeding(result, field, limit)]
    if as_json:
        print_json(result | {"exceeded": lines})
    else:
        _print(result)
    for line in (*result["warnings"], *lines):
        echo(f"statsvc: {line}", err=True)
    if lines:
        raise click.exceptions.Exit(1)


class _Place(NamedTuple):
    """What is compared: the newest version and all samples where version and split are None."""

    name: str
    version: int | str | None
    split: str | None


def _parsed(argument: str, text: str) -> _Place:
    """Return the parts of NAME[@VERSION][/SPLIT], the value of an argument of the command."""
    place, separator, split = text.partition("/")
    name, at, version = place.partition("@")
    if not name or (separator and not split) or (at and not version):
        raise InvalidParameter(
            (
                argument,
                f"{text!r} is not NAME, NAME@VERSION or NAME@TAG, optionally with /SPLIT or /RULE:VALUE",
            )
        )
    return _Place(name, version_number(version) if at else None, split or None)


def _answer(home: Home, catalog: Catalog, place: _Place, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights response of a place in the home directory."""
    spec = WeightSpec.from_params({**request, "split": place.split})
    return answer_function(home, catalog, place.name, place.version, None)(spec)


def _print(result: Mapping[str, Any]) -> None:
    rows = [
        (
            row["id"],
            row["name"],
            *(row[field][key] for field in ("pixels", "images") for key in ("from", "to")),
            *(_number(row[field][key]) for field in ("share", "weight") for key in ("from", "to")),
            _percent(row["weight"]["change"]),
        )
        for row in result["classes"]
    ]
    columns = ["id", "name"]
    columns += [f"{field} {key}" for field in FIELDS for key in ("from", "to")]
    print_table([*columns, "weight change"], rows)
    echo(f"distance {result[DISTANCE]:.6f}")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:+.1%}"

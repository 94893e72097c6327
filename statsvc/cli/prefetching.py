"""`statsvc prefetch`: fill the cache for machines that cannot reach the server."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli.common import json_option, print_json
from statsvc.cli.weighing import given_of, spec_options, tell_warnings
from statsvc.errors import StatsvcError
from statsvc.spec import PARAMETERS

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.result import ClassWeights


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--version",
    "versions",
    metavar="N|TAG",
    multiple=True,
    help="Number or tag of the version; may be repeated.  [default: newest]",
)
@spec_options(*PARAMETERS)
@click.option("--url", metavar="URL", help="Server to ask.  [env: STATSVC_URL]")
@click.option(
    "--cache", metavar="DIR", help="Folder to fill.  [env: STATSVC_CACHE; default: ~/.cache/statsvc]"
)
@json_option
def prefetch(
    names: tuple[str, ...],
    versions: tuple[str, ...],
    url: str | None,
    cache: str | None,
    as_json: bool,
    **params: Any,
) -> None:
    """Keep the class weights of datasets NAME for where there is no network.

    Give the trainer's own parameters: the cache answers the same question to the same URL. The answer of
    the newest version is kept under its number too, so that version=N works as well.
    """
    from statsvc.client import Client

    given = given_of(params)
    client = Client(url, cache=cache)
    kept: list[tuple[ClassWeights, Path]] = []
    for name, version in product(names or (None,), versions or (None,)):
        try:
            kept += client.prefetch(name, version=version, **given)
        except OSError as error:
            if isinstance(error, StatsvcError):
                raise
            raise StatsvcError(f"the cache {client.cache} cannot be written: {error.strerror}") from error
    if as_json:
        print_json([_described(answer, path) for answer, path in kept])
        return
    for answer, path in kept:
        what = f"{answer.dataset} version {answer.version}: {len(answer)} weights by {answer.method}"
        click.echo(f"{what} in {path}")
    for answer in {answer.digest: answer for answer, _ in kept}.values():
        tell_warnings(answer.to_dict())


def _described(answer: ClassWeights, path: Path) -> dict[str, Any]:
    return {
        "dataset": answer.dataset,
        "version": answer.version,
        "method": answer.method,
        "spec": answer.spec,
        "classes": len(answer),
        "digest": answer.digest,
        "file": str(path),
    }

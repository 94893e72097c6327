"""`statsvc prefetch`: fill the cache for machines that cannot reach the server."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._common import json_option, print_json
from statsvc.cli.weights import given_of, spec_options, tell_warnings
from statsvc.errors import InvalidParameter, StatsvcError
from statsvc.weighting.parameters import PARAMETERS
from statsvc.weighting.schemes import SCHEMES

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.sampling.result import Sampling
    from statsvc.weighting.class_weights import ClassWeights


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--version",
    "versions",
    metavar="N|TAG",
    multiple=True,
    help="Number or tag of the version; may be repeated.  [default: newest]",
)
@click.option(
    "--sampling",
    "samplers",
    metavar="SAMPLER",
    multiple=True,
    type=click.Choice(list(SCHEMES)),
    help="Keep what this sampler asks for instead of class weights; may be repeated.",
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
    samplers: tuple[str, ...],
    url: str | None,
    cache: str | None,
    as_json: bool,
    **params: Any,
) -> None:
    """Keep the class weights of datasets NAME for where there is no network.

    Give the trainer's own parameters: the cache answers the same question to the same URL. The answer of
    the newest version is kept under its number too, so that version=N works as well. A trainer with weights
    and a sampler needs both: run this once without and once with --sampling.
    """
    from statsvc.client.client import Client

    given = given_of(params)
    client = Client(url, cache=cache)
    kept: list[tuple[ClassWeights, Path]] = []
    pages: list[tuple[Sampling, list[Path]]] = []
    if samplers and "sampler" in given:
        raise InvalidParameter(("sampler", "--sampling names it: leave --sampler out"))
    for name, version in product(names or (None,), versions or (None,)):
        try:
            if not samplers:
                kept += client.prefetch(name, version=version, **given)
            pages += [
                client.prefetch_sampling(name, sampler=sampler, version=version, **given)
                for sampler in samplers
            ]
        except OSError as error:
            if isinstance(error, StatsvcError):
                raise
            raise StatsvcError(f"the cache {client.cache} cannot be written: {error.strerror}") from error
    if as_json:
        print_json([_described(*one) for one in kept] + [_sampled(*one) for one in pages])
        return
    for found, files in pages:
        what = f"{found.dataset} version {found.version}: {len(found)} images for {found.sampler}"
        click.echo(f"{what} in {' '.join(map(str, files))}")
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


def _sampled(found: Sampling, files: list[Path]) -> dict[str, Any]:
    return {
        "dataset": found.dataset,
        "version": found.version,
        "sampler": found.sampler,
        "spec": found.spec,
        "images": found.images,
        "files": [str(file) for file in files],
    }

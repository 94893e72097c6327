"""`statsvc prefetch`: fill the client's cache for machines that cannot reach the server."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._answers import print_warnings
from statsvc.cli._echo import echo
from statsvc.cli._options import json_option, print_json
from statsvc.cli._parameters import parameter_options, present_parameters
from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter, StatsvcError
from statsvc.weighting.parameters import PARAMETERS
from statsvc.weighting.schemes import SCHEMES

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.sampling.result import Sampling
    from statsvc.weighting.class_weights import ClassWeights


@click.command(short_help="Cache class weights for offline use.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--version",
    "versions",
    metavar="N|TAG",
    multiple=True,
    show_default="newest",
    help="Version of the dataset: a number or a tag. Can be repeated.",
)
@click.option(
    "--sampling",
    "samplers",
    metavar="SAMPLER",
    multiple=True,
    type=click.Choice(list(SCHEMES)),
    help=f"Cache the data of this sampler instead of weights: {', '.join(SCHEMES)}. Can be repeated.",
)
@parameter_options(*PARAMETERS)
@click.option(
    "--url",
    metavar="URL",
    envvar="STATSVC_URL",
    show_envvar=True,
    help="Server to query.",
)
@click.option(
    "--cache",
    metavar="FOLDER",
    envvar="STATSVC_CACHE",
    show_envvar=True,
    show_default="~/.cache/statsvc",
    help="Cache folder to fill.",
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
    """Cache the class weights of each dataset NAME for offline use.

    Use the URL and the parameters of the training script: the cache answers exactly these requests. The
    weights of the newest version are also cached under its number, so that version=N works, too. If a
    script uses both weights and a sampler, run this command twice, with and without --sampling.
    """
    from statsvc.client.client import Client

    request = present_parameters(params)
    if samplers and "sampler" in request:
        raise InvalidParameter(("sampler", "Omit --sampler: --sampling already names the sampler."))
    client = Client(url, cache=cache)
    weights: list[tuple[ClassWeights, Path]] = []
    sampling: list[tuple[Sampling, list[Path]]] = []
    for name, version in product(names or (None,), versions or (None,)):
        try:
            if not samplers:
                weights += client.prefetch(name, version=version, **request)
            sampling += [
                client.prefetch_sampling(name, sampler=sampler, version=version, **request)
                for sampler in samplers
            ]
        except OSError as error:
            if isinstance(error, StatsvcError):
                raise
            raise StatsvcError(f"The cache {client.cache} cannot be written: {error.strerror}") from error
    if as_json:
        print_json(
            [_weights_json(*entry) for entry in weights] + [_sampling_json(*entry) for entry in sampling]
        )
        return
    for result, files in sampling:
        summary = (
            f"{result.dataset} version {result.version}: {plural(len(result), 'image')} for {result.sampler}"
        )
        echo(f"{summary} in {' '.join(map(str, files))}")
    for answer, file in weights:
        summary = f"{answer.dataset} version {answer.version}: {len(answer)} weights by {answer.method}"
        echo(f"{summary} in {file}")
    # The newest version is cached under two names: print its warnings once.
    for answer in {answer.digest: answer for answer, _ in weights}.values():
        print_warnings(answer.to_dict())


def _weights_json(answer: ClassWeights, file: Path) -> dict[str, Any]:
    return {
        "dataset": answer.dataset,
        "version": answer.version,
        "method": answer.method,
        "spec": answer.spec,
        "classes": len(answer),
        "digest": answer.digest,
        "file": str(file),
    }


def _sampling_json(result: Sampling, files: list[Path]) -> dict[str, Any]:
    return {
        "dataset": result.dataset,
        "version": result.version,
        "sampler": result.sampler,
        "spec": result.spec,
        "images": result.images,
        "files": [str(file) for file in files],
    }

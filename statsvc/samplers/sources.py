"""Where samplers get statistics: a server, the result of a scan, or a `Sampling`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from statsvc.dataset.splits import from_dict
from statsvc.errors import InvalidParameter
from statsvc.sampling.result import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from statsvc.client.client import Client
    from statsvc.dataset.splits import Split
    from statsvc.local.scan import LocalTable
    from statsvc.sampling.patches import Patches
    from statsvc.weighting.class_weights import ClassWeights

_log = logging.getLogger("statsvc.samplers")


def sampling_of(
    source: str | Client | LocalTable | Sampling | None,
    sampler: str,
    dataset: str | None,
    version: int | str | None,
    params: Mapping[str, Any],
) -> Sampling:
    """Return the probabilities of a source, and log the warnings that come with them."""
    if source is None or isinstance(source, str):
        from statsvc.client.client import Client

        source = Client(source)
    if isinstance(source, Sampling):
        if source.sampler != sampler:
            raise InvalidParameter(("source", f"has probabilities for {source.sampler}, not for {sampler}"))
        arguments = {**params, "dataset": dataset, "version": version}
        redundant = [name for name, value in arguments.items() if value is not None]
        if redundant:
            raise InvalidParameter(
                *((name, "is already part of the source; leave it out") for name in redundant)
            )
        return source
    from statsvc.local.scan import LocalTable

    if isinstance(source, LocalTable):
        if version is not None or dataset not in (None, source.dataset):
            raise InvalidParameter(
                ("dataset", f"the source is the scan {source.dataset}; leave out dataset and version")
            )
        sampling = source.sampling(sampler, **params)
    else:
        sampling = source.sampling(dataset, sampler=sampler, version=version, **params)
    for warning in sampling.warnings:
        _log.warning("%s: %s", sampling.dataset, warning["message"])
    return sampling


def paths_and_splits(
    source: str | Client | LocalTable | Sampling | None, sampling: Sampling
) -> tuple[Sequence[str], Mapping[str, Split]]:
    """Return every path of the version, and the splits of its dataset; both empty if unknown."""
    from statsvc.client.client import Client
    from statsvc.local.scan import LocalTable

    if isinstance(source, Sampling):
        return [], {}
    if isinstance(source, LocalTable):
        return source.rows.path, source.configuration.splits
    client = source if isinstance(source, Client) else Client(source)
    splits = client.dataset(sampling.dataset)["configuration"]["splits"]
    all_images = client.sampling(sampling.dataset, sampler="repeat_factor", version=sampling.version)
    return all_images.paths, from_dict(splits)


def patch_source(
    source: str | Client | LocalTable | None,
    dataset: str | None,
    version: int | str | None,
    selection: Mapping[str, Any],
    params: Mapping[str, Any],
) -> tuple[ClassWeights, Callable[[int], Patches]]:
    """Return class weights, for the shares of the classes, and a function from a class id to its tiles."""
    from statsvc.client.client import Client
    from statsvc.local.scan import LocalTable

    if isinstance(source, LocalTable):
        if version is not None or dataset not in (None, source.dataset):
            raise InvalidParameter(
                ("dataset", f"the source is the scan {source.dataset}; leave out dataset and version")
            )
        table = source
        return (
            table.weights("uniform", **params),
            lambda class_id: table.patches(class_id, **selection, **params),
        )
    client = Client(source) if source is None or isinstance(source, str) else source
    weights = client.weights(dataset, version=version, method="uniform", **params)
    return weights, lambda class_id: client.patches(
        weights.dataset, class_id=class_id, version=weights.version, **selection, **params
    )

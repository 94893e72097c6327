"""How probable each image is for a sampler, as a trainer gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.table import Table

PAGE = 50_000
"""Samples asked for at a time."""


class Sampling:
    """The probability of each image of a dataset, or a split of it, and what it rests on.

    dataset, version, sampler, spec, images, failed, epoch, classes and warnings are the answer's.

    paths        relative paths of the label maps, in path order
    probability  float64 [images], adding up to 1
    """

    def __init__(
        self, head: Mapping[str, Any], paths: Sequence[str], probability: NDArray[np.float64]
    ) -> None:
        self.dataset: str = head["dataset"]
        self.version: int | None = head["version"]
        self.sampler: str = head["sampler"]
        self.spec: dict[str, Any] = head["spec"]
        self.images: int = head["images"]
        self.failed: int = head["failed"]
        self.epoch: float = head["epoch"]
        self.classes: list[dict[str, Any]] = head["classes"]
        self.warnings: list[dict[str, str]] = head["warnings"]
        self.paths = list(paths)
        self.probability = np.asarray(probability, np.float64)
        if len(self.paths) != self.images or len(self.probability) != self.images:
            raise ValueError(f"{len(self.paths)} paths for {self.images} images")

    def __len__(self) -> int:
        return self.images

    def __repr__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        return f"<Sampling of {self.dataset}{version}: {self.sampler}, {self.images} images>"


def of_table(table: Table, sampler: str, params: Mapping[str, Any]) -> Sampling:
    """Return how probable the images of a table are. Raises as `statsvc.sampling.plan.plan_sampling` does."""
    from statsvc.sampling.plan import SamplingRequest, plan_sampling

    plan = plan_sampling(table, SamplingRequest.from_params(sampler, params))
    paths: list[str] = []
    probability = [np.zeros(0)]
    for names, counts in table.sample_counts(params.get("split"), plan.interpreted.class_map):
        paths += names
        probability.append(plan.draws.probability(counts))
    return Sampling(plan.head, paths, np.concatenate(probability))


def fetch(
    get: Callable[[str, Mapping[str, Any], Callable[[Any], Any]], Any],
    dataset: str,
    version: int | str | None,
    params: Mapping[str, Any],
) -> Sampling:
    """Return the answer of `GET /datasets/{dataset}/sampling`, asked for page by page.

    get  path, parameters and a function that reads the JSON → what it returns, as `Client` does
    """
    path = f"/datasets/{quote(dataset, safe='')}/sampling"
    first, *rest = _pages(get, path, {**params, "version": version, "limit": PAGE})
    samples = [sample for page in (first, *rest) for sample in page["samples"]]
    return Sampling(
        first, [sample["path"] for sample in samples], np.array([sample["probability"] for sample in samples])
    )


def _pages(
    get: Callable[[str, Mapping[str, Any], Callable[[Any], Any]], Any], path: str, params: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    page = get(path, params, _checked)
    yield page
    while page["next"] is not None:
        # The first page's version: a scan may publish another one between two pages.
        page = get(path, {**params, "version": page["version"], "after": page["next"]}, _checked)
        yield page


_KEYS = ("dataset", "version", "sampler", "spec", "images", "failed", "epoch", "classes", "warnings", "next")


def _checked(body: Any) -> dict[str, Any]:
    for key in _KEYS:
        if key not in body:
            raise LookupError(f"{key!r} is missing")
    for sample in body["samples"]:
        if not isinstance(sample["path"], str) or not 0 <= sample["probability"] <= 1:
            raise TypeError("a sample is not a path with a probability")
    return dict(body)


def only_dataset(datasets: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the only dataset that has a version. Raises `InvalidParameter` listing them."""
    names = [str(one["name"]) for one in datasets if one["version"] is not None]
    if len(names) != 1:
        there = ", ".join(names[:20]) or "none with a version"
        raise InvalidParameter(("dataset", f"there are {len(names)} datasets, give one: {there}"))
    return names[0]

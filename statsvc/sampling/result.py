"""The class that holds the image probabilities of a sampler in a training program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.dataset.table import Table

PAGE = 50_000
"""Number of samples in one request."""


_MAX_NAMES = 20
"""Number of datasets that a message names."""


class Sampling:
    """The probability of each image of a dataset or split, and the data and settings that it is based on.

    dataset, version, sampler, spec, images, failed, epoch, classes and warnings are fields of the response.

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
        return f"<Sampling of {self.dataset}{version}: {self.sampler}, {plural(self.images, 'image')}>"


def of_table(table: Table, sampler: str, params: Mapping[str, Any]) -> Sampling:
    """Return the probabilities of a table's images. Raises as `statsvc.sampling.plan.plan_sampling` does."""
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
    """Return the response of `GET /datasets/{dataset}/sampling`, requested page by page.

    get  function of a path, parameters and a function that parses the JSON; returns the parsed value
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
        # Ask for the version of the first page: a scan may publish a new version between two pages.
        page = get(path, {**params, "version": page["version"], "after": page["next"]}, _checked)
        yield page


_KEYS = ("dataset", "version", "sampler", "spec", "images", "failed", "epoch", "classes", "warnings", "next")


def _checked(body: Any) -> dict[str, Any]:
    for key in _KEYS:
        if key not in body:
            raise LookupError(f"{key!r} is missing")
    for sample in body["samples"]:
        if not isinstance(sample["path"], str) or not 0 <= sample["probability"] <= 1:
            raise TypeError("a sample does not consist of a path and a probability")
    return dict(body)


def only_dataset(datasets: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the only dataset that has a version. Raises `InvalidParameter` listing them."""
    names = [str(dataset["name"]) for dataset in datasets if dataset["version"] is not None]
    if not names:
        raise InvalidParameter(("dataset", "the server has no dataset with a version; scan one first"))
    if len(names) > 1:
        listed = ", ".join(names[:_MAX_NAMES])
        raise InvalidParameter(("dataset", f"the server has {len(names)} datasets; choose one of {listed}"))
    return names[0]

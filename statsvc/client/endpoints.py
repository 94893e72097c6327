"""The URL and the response format of each endpoint that the client uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from statsvc.client.query import query_string
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.client.http import Parse
    from statsvc.client.jobs import Jobs
    from statsvc.sampling.patches import Patches
    from statsvc.sampling.result import Sampling
    from statsvc.weighting.class_weights import ClassWeights

PATCHES_PER_PAGE = 50_000
"""Patches in one request."""

Get = Callable[[str, "Parse"], Any]
"""Fetches a path with its query string and returns what `Parse` makes of the response."""


def weights_path(params: Mapping[str, Any]) -> str:
    """Return the path of a weights request. Raises `InvalidParameter` for a format other than JSON."""
    if "format" in params:
        raise InvalidParameter(("format", "the client always requests JSON; use .to_list() or .numpy()"))
    return "/weights" + query_string(params)


def parse_weights(body: Any) -> ClassWeights:
    """Return the class weights in a response of `GET /weights`."""
    from statsvc.weighting.class_weights import ClassWeights, checked_answer

    return ClassWeights(checked_answer(body))


def fetch_sampling(
    get: Get, dataset: str | None, sampler: str, version: int | str | None, params: Mapping[str, Any]
) -> Sampling:
    """Fetch every page of `GET /datasets/{name}/sampling`.

    Raises `InvalidParameter` for a mixture, and without a dataset unless the server has exactly one.
    """
    from statsvc.sampling import mixtures, result

    if mixtures.parse(dataset) is not None:
        raise InvalidParameter(
            ("dataset", f"{dataset} is a mixture; create a separate sampler for each of its datasets")
        )
    name = dataset if dataset is not None else result.only_dataset(fetch_datasets(get))
    return result.fetch(
        lambda path, page_params, parse: get(path + query_string(page_params), parse),
        name,
        version,
        {"sampler": sampler, **params},
    )


def fetch_patches(get: Get, dataset: str | None, params: Mapping[str, Any], most: int | None) -> Patches:
    """Fetch the pages of `GET /datasets/{name}/patches`, at most `most` patches; None for all.

    Raises `InvalidParameter` without a dataset unless the server has exactly one.
    """
    from statsvc.sampling import patches, result

    name = dataset if dataset is not None else result.only_dataset(fetch_datasets(get))
    path = f"/datasets/{quote(name, safe='')}/patches"
    limit = min(PATCHES_PER_PAGE, most or PATCHES_PER_PAGE)

    def page(page_params: Mapping[str, Any]) -> dict[str, Any]:
        query = query_string({**params, "limit": limit, **page_params})
        body: dict[str, Any] = get(path + query, _checked_patches)
        return body

    pages = [page({})]
    while pages[-1]["next"] is not None and (most is None or pages[-1]["next"] < most):
        # Ask for the version of the first page: a scan may publish a new version between two pages.
        pages.append(page({"version": pages[0]["version"], "after": pages[-1]["next"]}))
    return patches.of_pages(pages, most)


def _checked_patches(body: Any) -> dict[str, Any]:
    for key in ("dataset", "version", "class_id", "name", "next"):
        if key not in body:
            raise LookupError(f"{key!r} is missing")
    return dict(body) | {"patches": _objects(body, "patches")}


def fetch_datasets(get: Get) -> list[dict[str, Any]]:
    """Fetch every page of `GET /datasets`."""
    datasets: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        path = "/datasets" + query_string({"after": after or None})
        page, after = get(path, lambda body: (_objects(body, "datasets"), body.get("next")))
        datasets += page
    return datasets


def fetch_dataset(get: Get, name: str) -> dict[str, Any]:
    """Fetch `GET /datasets/{name}`."""
    dataset: dict[str, Any] = get(
        f"/datasets/{quote(name, safe='')}", lambda body: dict(body) | {"name": body["name"]}
    )
    return dataset


def fetch_jobs(get: Get, dataset: str | None) -> Jobs:
    """Fetch the newest jobs, of one dataset if given."""
    from statsvc.client.jobs import Jobs

    path = "/jobs" + query_string({"dataset": dataset})
    return Jobs(get(path, lambda body: _objects(body, "jobs")))


def fetch_groups(get: Get, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Fetch `GET /datasets/{name}/groups`."""
    path = f"/datasets/{quote(name, safe='')}/groups{query_string(params)}"
    response: dict[str, Any] = get(path, lambda body: dict(body) | {"groups": _objects(body, "groups")})
    return response


def fetch_methods(get: Get) -> list[dict[str, Any]]:
    """Fetch `GET /methods`."""
    methods: list[dict[str, Any]] = get("/methods", lambda body: _objects(body, "methods"))
    return methods


def _objects(body: Any, key: str) -> list[dict[str, Any]]:
    if not isinstance(body[key], list):
        raise TypeError(f"{key!r} is not a list")
    return list(body[key])


def describe(value: Any) -> str:
    """Return a short description of a parsed response for log messages."""
    if isinstance(value, tuple):
        return f"a page of {len(value[0])}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        if "patches" in value:
            return f"{value['dataset']} version {value['version']} (patches of {value['name']})"
        if "sampler" in value:
            return f"{value['dataset']} version {value['version']} ({value['sampler']})"
        return f"dataset {value['name']}"
    version = "" if value.version is None else f" version {value.version}"
    return f"{value.dataset}{version} ({value.method})"

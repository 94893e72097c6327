"""`Client` and `class_weights`: what a training script calls."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statsvc.client import cache as client_cache
from statsvc.client import endpoints
from statsvc.client.cached_server import CachedServer
from statsvc.client.distributed import from_rank_zero, rank
from statsvc.client.query import is_version_number, prefetch_command
from statsvc.client.settings import checked_offline, checked_timeout, checked_token, checked_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from statsvc.client.http import Parse
    from statsvc.client.jobs import Jobs
    from statsvc.sampling.patches import Patches
    from statsvc.sampling.result import Sampling
    from statsvc.weighting.class_weights import ClassWeights
    from statsvc.weighting.comparison_result import Comparison

_log = logging.getLogger("statsvc.client")


class Client:
    """A client of one statsvc server. It only stores settings: safe to pickle, fork and share by threads.

    url      URL of the server, for instance "http://stats:8000"; default STATSVC_URL
    token    bearer token, if the server requires one; default STATSVC_TOKEN
    timeout  seconds for one attempt; default STATSVC_TIMEOUT, else 10. A request makes at most four attempts
             within three times this time
    cache    folder for cached responses; default STATSVC_CACHE, else `~/.cache/statsvc`

    With STATSVC_OFFLINE=1 it only reads the cache. The environment is read when the client is created.

    Raises `InvalidParameter` if a setting is missing or malformed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self._server = CachedServer(
            url=checked_url(url or os.environ.get("STATSVC_URL", "")),
            token=checked_token(token or os.environ.get("STATSVC_TOKEN") or None),
            timeout=checked_timeout(timeout if timeout is not None else os.environ.get("STATSVC_TIMEOUT")),
            cache=Path(cache).expanduser() if cache else client_cache.default_folder(),
            offline=checked_offline(os.environ.get("STATSVC_OFFLINE", "")),
        )

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @property
    def url(self) -> str:
        """URL of the server, without a trailing slash."""
        return self._server.url

    @property
    def timeout(self) -> float:
        """Seconds for one attempt."""
        return self._server.timeout

    @property
    def cache(self) -> Path:
        """Folder for cached responses."""
        return self._server.cache

    @property
    def offline(self) -> bool:
        """Whether only the cache is used."""
        return self._server.offline

    def weights(
        self,
        dataset: str | None = None,
        *,
        version: int | str | None = None,
        expect_classes: Sequence[str] | None = None,
        pinned: dict[str, Any] | None = None,
        sync: bool = False,
        **params: Any,
    ) -> ClassWeights:
        """Return class weights from the server.

        dataset         name of the dataset; not needed if the server has only one
        version         version number or tag; default: the newest version. A numbered version is requested
                        once and then read from the cache
        expect_classes  class names in the order of the trainer's class ids, compared with the dataset's
        pinned          `ClassWeights.to_dict()` from the checkpoint of a resumed run: returns these weights
                        without a request, after checking that the other arguments agree with them
        sync            makes this a collective of torch.distributed, which every rank must call: rank 0 sends
                        the request, and every rank gets its result or its exception. By default each rank
                        sends its own request
        params          parameters of `GET /weights` as Python values: `method="effective_num"`, `beta=0.999`,
                        `ignore_index=[255]` (`[]` ignores nothing), `clip=(0.1, 10)`,
                        `multiply={"person": 2}`. None means the server's default

        While the server is unavailable, the last cached response to the same request is used, and a warning
        is logged to "statsvc.client".

        Raises
        - `InvalidParameter` for a parameter, a class name in `expect_classes`, or a value that contradicts
          `pinned`,
        - `NotFound` for an unknown dataset or version,
        - `Unanswerable` if the statistics cannot answer the request,
        - `DamagedVersion` if the stored version is corrupt and nothing is cached,
        - `ServerError` if there is no usable response, neither from the server nor in the cache.
        """
        query = {"dataset": dataset, "version": version, **params}

        def request() -> ClassWeights:
            return _weights(lambda: self, query, pinned, expect_classes)

        return _on_every_rank(request, sync)

    def prefetch(
        self, dataset: str | None = None, *, version: int | str | None = None, **params: Any
    ) -> list[tuple[ClassWeights, Path]]:
        """Fetch class weights into the cache, for machines that cannot reach the server.

        Arguments are as in `weights`. Returns each response with its cache file. Unless `version` is a
        number, the response is also cached under the number of the version that it came from.

        Raises as `weights` does, but never uses a cached response. Also raises `InvalidParameter` if
        STATSVC_OFFLINE is set, `ServerError` if the server forbids caching, and `OSError` if the cache cannot
        be written.
        """

        def fetch(version: int | str | None) -> tuple[ClassWeights, Path]:
            query = {"dataset": dataset, "version": version, **params}
            return self._server.fetch(endpoints.weights_path(query), endpoints.parse_weights)

        fetched = [fetch(version)]
        number = fetched[0][0].version
        if number is not None and not is_version_number(version):
            fetched.append(fetch(number))
        return fetched

    def sampling(
        self,
        dataset: str | None = None,
        *,
        sampler: str,
        version: int | str | None = None,
        sync: bool = False,
        **params: Any,
    ) -> Sampling:
        """Return the probability with which a sampler draws each image.

        sampler  `rare_class`, `repeat_factor` or `image_weights`
        params   parameters of `GET /datasets/{name}/sampling`, such as `split="train"`, `temperature=0.01`

        `dataset`, `version` and `sync` are as in `weights`. The response has several pages, each of which is
        cached. Raises as `weights` does, and `InvalidParameter` for a mixture of datasets.
        """

        def advice() -> str:
            return self._prefetch_advice(
                {"dataset": dataset, "sampling": sampler, "version": version, **params}
            )

        def get(path: str, parse: Parse) -> Any:
            return self._server.get(path, parse, advice)

        def request() -> Sampling:
            return endpoints.fetch_sampling(get, dataset, sampler, version, params)

        return from_rank_zero(request) if sync else request()

    def patches(
        self,
        dataset: str | None = None,
        *,
        class_id: int,
        version: int | str | None = None,
        most: int | None = None,
        **params: Any,
    ) -> Patches:
        """Return the tiles of the images that contain a class, those with most of its pixels first.

        class_id  class id, after the class map
        most      number of tiles after which the others are left out
        params    parameters of `GET /datasets/{name}/patches`: `split`, `class_map`, `min_pixels`

        Raises as `weights` does, and `Unanswerable` for a dataset that was counted without a grid.
        """
        query = {"class_id": class_id, "version": version, **params}

        def get(path: str, parse: Parse) -> Any:
            return self._server.get(path, parse, lambda: "")

        return endpoints.fetch_patches(get, dataset, query, most)

    def groups(
        self,
        dataset: str,
        by: str | None = None,
        *,
        version: int | str | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """Return what each group of samples contains, as `GET /datasets/{name}/groups` describes it.

        by      name of a group rule of the dataset, "folder:1", or an expression over the path; None for the
                rules of the dataset, and rules that suit its paths
        params  `split`, `class_map`, `ignore_index` and `num_classes`

        Raises as `weights` does.
        """
        return endpoints.fetch_groups(self._server.get, dataset, {"by": by, "version": version, **params})

    def prefetch_sampling(
        self, dataset: str | None = None, *, sampler: str, version: int | str | None = None, **params: Any
    ) -> tuple[Sampling, list[Path]]:
        """Fetch the pages of a sampler into the cache, for machines that cannot reach the server.

        Arguments are as in `sampling`. Returns the response with its cache files. Unless `version` is a
        number, the pages are also cached under the number of the version that they came from. Without a
        `dataset`, the list of datasets is cached too.

        Raises as `prefetch` does.
        """
        files: dict[Path, None] = {}

        def fetch(path: str, parse: Parse) -> Any:
            value, file = self._server.fetch(path, parse)
            files[file] = None
            return value

        sampling = endpoints.fetch_sampling(fetch, dataset, sampler, version, params)
        if sampling.version is not None and not is_version_number(version):
            endpoints.fetch_sampling(fetch, sampling.dataset, sampler, sampling.version, params)
        return sampling, list(files)

    def dataset(self, name: str) -> dict[str, Any]:
        """Return a dataset as `GET /datasets/{name}` describes it: configuration, splits, newest jobs.

        Raises `NotFound` for an unknown name, and `ServerError` as `weights` does.
        """
        return endpoints.fetch_dataset(self._server.get, name)

    def datasets(self) -> list[dict[str, Any]]:
        """Return every dataset of the server, sorted by name, as `GET /datasets` describes it.

        Raises `ServerError` as `weights` does.
        """
        return endpoints.fetch_datasets(self._server.get)

    def jobs(self, dataset: str | None = None) -> Jobs:
        """Return the jobs of the server, or of a dataset, newest first: a list of dicts as in `GET /jobs`.

        In a notebook it is shown as a table with the progress of each job. Raises `ServerError` as `weights`
        does.
        """
        return endpoints.fetch_jobs(self._server.get, dataset)

    def compare(
        self,
        dataset: str | None = None,
        *,
        version: int | str | None = None,
        method: str | Sequence[str] = (),
        **params: Any,
    ) -> Comparison:
        """Return how weighting methods distribute the loss over the classes; one request for each method.

        method  methods to compare; by default all that return class weights
        params  `beta`, `alpha` and `strength`, each one value or a list, and parameters of all methods, such
                as `split`

        Raises as `weights` does.
        """
        from statsvc.weighting.comparison_result import Comparison

        def response(request: dict[str, Any]) -> dict[str, Any]:
            return self.weights(dataset, version=version, **request).to_dict()

        several = {name: params.pop(name) for name in ("beta", "alpha", "strength") if name in params}
        return Comparison.of(response, params, method=method, **several)

    def methods(self) -> list[dict[str, Any]]:
        """Return every weighting method with its formula, parameters, ranges and reference.

        Raises `ServerError` as `weights` does.
        """
        return endpoints.fetch_methods(self._server.get)

    def _get_weights(self, query: Mapping[str, Any]) -> ClassWeights:
        weights: ClassWeights = self._server.get(
            endpoints.weights_path(query), endpoints.parse_weights, lambda: self._prefetch_advice(query)
        )
        return weights

    def _prefetch_advice(self, query: Mapping[str, Any]) -> str:
        folder = None if self.cache == client_cache.default_folder() else self.cache
        return f". Where the server can be reached, run: {prefetch_command(self.url, folder, query)}"


def class_weights(
    url: str | None = None,
    *,
    dataset: str | None = None,
    device: torch.device | str | None = None,
    sync: bool = False,
    pinned: dict[str, Any] | None = None,
    expect_classes: Sequence[str] | None = None,
    **params: Any,
) -> torch.Tensor:
    """Return class weights from a statsvc server for a weighted loss, float32 [num_classes] on `device`.

    url  URL of the server; default STATSVC_URL. Not needed with `pinned`, and with `sync` only on rank 0

    The other arguments are those of `Client.weights`. The warnings of the response are logged to
    "statsvc.client".

    Raises as `Client.weights` does, and `ImportError` without PyTorch. Warns if the numbers are not weights
    for a loss, such as those of `logit_adjustment`.
    """

    def request() -> ClassWeights:
        weights = _weights(lambda: Client(url), {"dataset": dataset, **params}, pinned, expect_classes)
        for warning in weights.warnings:
            _log.warning("%s: %s", weights.dataset, warning["message"])
        return weights

    weights = _on_every_rank(request, sync)
    weights.warn_if_not_weights()
    return weights.tensor(device)


def _weights(
    client: Callable[[], Client],
    query: Mapping[str, Any],
    pinned: dict[str, Any] | None,
    expect_classes: Sequence[str] | None,
) -> ClassWeights:
    """Return pinned weights, or those that the client gets. `client` is not called for pinned weights."""
    if pinned is None:
        weights = client()._get_weights(query)
    else:
        from statsvc.client.pinned import pinned_weights

        weights = pinned_weights(pinned, query)
    if expect_classes is not None:
        weights.require_classes(expect_classes)
    return weights


def _on_every_rank(request: Callable[[], ClassWeights], sync: bool) -> ClassWeights:
    """Return the result of `request`, with `sync` that of rank 0, and log which weights it is."""
    weights = from_rank_zero(request) if sync else request()
    own_rank = rank()
    prefix = "" if own_rank is None else f"rank {own_rank}: "
    _log.info("%s%s, weights with digest %s", prefix, endpoints.describe(weights), weights.digest)
    return weights

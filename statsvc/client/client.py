"""What a trainer imports: ask a statsvc server for class weights, or its cache while the server is away."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from statsvc.client import cache as client_cache
from statsvc.client import query, retry
from statsvc.client.cache import Entry
from statsvc.client.distributed import from_rank_zero, rank
from statsvc.client.http import Away
from statsvc.client.settings import checked_offline, checked_timeout, checked_token, checked_url
from statsvc.errors import InvalidParameter, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from statsvc.client.http import Read
    from statsvc.sampling.result import Sampling
    from statsvc.weighting.class_weights import ClassWeights

_log = logging.getLogger("statsvc.client")
_warned: set[Path] = set()


class Client:
    """A statsvc server. Holds settings only: safe to pickle, to fork and to share between threads.

    url      where the server is, for instance "http://stats:8000"; STATSVC_URL if left out
    token    bearer token where the server asks for one; STATSVC_TOKEN if left out
    timeout  seconds for one attempt; STATSVC_TIMEOUT, else 10. At most four are made, in at most three
             times this
    cache    folder for answers; STATSVC_CACHE, else `~/.cache/statsvc`

    With STATSVC_OFFLINE=1 it answers from the cache alone. Raises `InvalidParameter` where a setting is
    missing or malformed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.url = checked_url(url or os.environ.get("STATSVC_URL", ""))
        self._token = checked_token(token or os.environ.get("STATSVC_TOKEN") or None)
        self.timeout = checked_timeout(timeout if timeout is not None else os.environ.get("STATSVC_TIMEOUT"))
        self.cache = Path(cache).expanduser() if cache else client_cache.default_folder()
        self.offline = checked_offline(os.environ.get("STATSVC_OFFLINE", ""))

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

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
        """Ask for class weights.

        version         number, which is asked for once and then read from the cache, or tag
        expect_classes  the trainer's class names in order; others are refused
        pinned          `ClassWeights.to_dict()` from the checkpoint of a run that is resumed: these
                        weights are returned, and nothing is asked; None asks
        sync            a collective of torch.distributed: rank 0 asks, every rank gets its answer or its
                        error, and every rank must call this. Without it each rank asks for itself
        params          those of `GET /weights`, in their own types: `method="effective_num"`, `beta=0.999`,
                        `ignore_index=[255]` (`[]` ignores nothing), `clip=(0.1, 10)`,
                        `multiply={"person": 2}`. What is left out or None is the server's choice

        While the server is away the last answer to the same question stands in, with a warning in the log
        "statsvc.client".

        Raises `InvalidParameter`, `NotFound`, `Unanswerable` and their like where the server refuses
        the question, `ServerError` where there is no answer.
        """
        question = {"dataset": dataset, "version": version, **params}

        def ask() -> ClassWeights:
            return _answer(lambda: self, question, pinned, expect_classes)

        return _shared(ask, sync)

    def prefetch(
        self, dataset: str | None = None, *, version: int | str | None = None, **params: Any
    ) -> list[tuple[ClassWeights, Path]]:
        """Ask the server for class weights and keep them for where it cannot be reached.

        Return each answer with the file that holds it: that to the question and, where it does not name
        a number, that to the same question about the version which answered.

        Raises as `weights` does, but never takes an answer from the cache; `ServerError` also where the
        server does not let the answer be kept, `OSError` where the cache cannot be written.
        """
        self._require_online()
        kept = [self._prefetched({"dataset": dataset, "version": version, **params})]
        number = kept[0][0].version
        if number is not None and not query.is_number(version):
            kept.append(self._prefetched({"dataset": dataset, "version": number, **params}))
        return kept

    def sampling(
        self,
        dataset: str | None = None,
        *,
        sampler: str,
        version: int | str | None = None,
        sync: bool = False,
        **params: Any,
    ) -> Sampling:
        """Ask how probable each image is for a sampler: `rare_class`, `repeat_factor` or `image_weights`.

        `params` are those of `GET /datasets/{name}/sampling`, such as `split="train"` and
        `temperature=0.01`. Pages are cached as answers are. `version`, `sync` and what is raised are as
        in `weights`.
        """

        def advice() -> str:
            return self._advice({"dataset": dataset, "sampling": sampler, "version": version, **params})

        def ask() -> Sampling:
            return _sampling(
                lambda path, read: self._get(path, read, advice), dataset, sampler, version, params
            )

        return from_rank_zero(ask) if sync else ask()

    def prefetch_sampling(
        self, dataset: str | None = None, *, sampler: str, version: int | str | None = None, **params: Any
    ) -> tuple[Sampling, list[Path]]:
        """Ask the server for a sampler's pages and keep them for where it cannot be reached.

        Return the answer with the files that hold it, also under the version's number where none is given,
        and the list of datasets where no name is. Raises as `prefetch` does.
        """
        self._require_online()
        files: dict[Path, None] = {}

        def get(path: str, read: Read) -> Any:
            value, file = self._fetched(path, read)
            files[file] = None
            return value

        found = _sampling(get, dataset, sampler, version, params)
        if found.version is not None and not query.is_number(version):
            _sampling(get, found.dataset, sampler, found.version, params)
        return found, list(files)

    def dataset(self, name: str) -> dict[str, Any]:
        """Return a dataset as `GET /datasets/{name}` describes it: configuration, splits, newest jobs."""
        path = f"/datasets/{quote(name, safe='')}"
        found: dict[str, Any] = self._get(path, lambda body: dict(body) | {"name": body["name"]})
        return found

    def datasets(self) -> list[dict[str, Any]]:
        """Return the server's datasets by name, as `GET /datasets` describes each."""
        return _datasets(self._get)

    def methods(self) -> list[dict[str, Any]]:
        """Return every weighting method with formula, parameters, ranges and reference."""
        found: list[dict[str, Any]] = self._get("/methods", lambda body: _list(body, "methods"))
        return found

    def _weights(self, params: Mapping[str, Any]) -> ClassWeights:
        answer: ClassWeights = self._get(_path(params), _read_weights, lambda: self._advice(params))
        return answer

    def _advice(self, params: Mapping[str, Any]) -> str:
        folder = None if self.cache == client_cache.default_folder() else self.cache
        command = query.prefetch_command(self.url, folder, params)
        return f"; where the server can be reached, run: {command}"

    def _require_online(self) -> None:
        if self.offline:
            raise InvalidParameter(("offline", "STATSVC_OFFLINE is set; unset it to fetch from a server"))

    def _prefetched(self, params: Mapping[str, Any]) -> tuple[ClassWeights, Path]:
        return self._fetched(_path(params), _read_weights)

    def _fetched(self, path: str, read: Read) -> tuple[Any, Path]:
        """Return the server's answer and the file that keeps it."""
        url = self.url + path
        try:
            answer, entry = self._asked(url, read, None)
        except Away as away:
            raise away.error from None
        if entry is None:
            raise ServerError(f"{url} answered, but does not let the answer be kept (no-store, or no ETag)")
        return answer, client_cache.store(self.cache, url, entry)

    def _get(self, path: str, read: Read, advice: Callable[[], str] = str) -> Any:
        """Return what `read` makes of the JSON at `path`, from the server or, where that may be, the cache.

        `advice` ends the message where there is neither.
        """
        url = self.url + path
        entry = self._load(url)
        held = None if entry is None else _value(entry, read)
        if entry is not None and held is not None and (self.offline or entry.immutable):
            _log.info("%s from the cache: %s, %s", url, _named(held), entry.when())
            return held
        if self.offline:
            raise ServerError(f"STATSVC_OFFLINE is set, and {self.cache} has no answer to {url}{advice()}")
        try:
            value, fresh = self._asked(url, read, None if held is None else entry)
        except Away as away:
            if entry is None or held is None:
                raise away.error from None
            _log.warning("going on with the last good answer, %s, %s: %s", _named(held), entry.when(), away)
            return held
        if fresh is not None:
            self._keep(url, fresh, new=entry is None or fresh.body != entry.body)
        return value

    def _asked(self, url: str, read: Read, entry: Entry | None) -> tuple[Any, Entry | None]:
        """Return the server's present answer, and the entry to keep of it, None where it is not to be kept.

        Raises `Away` where there is none, and the exception of what the server refused.
        """
        from statsvc._version import __version__

        headers = {"Accept": "application/json", "User-Agent": f"statsvc/{__version__}"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if entry is not None:
            headers["If-None-Match"] = entry.etag
        _log.debug("GET %s (If-None-Match: %s)", url, entry and entry.etag)
        reply = retry.ask(url, headers, self.timeout, read)
        now = time.time()
        if reply is None:
            assert entry is not None
            return _value(entry, read), replace(entry, confirmed=now)
        if reply.etag is None:
            return reply.value, None
        return reply.value, Entry(reply.etag, reply.body, reply.immutable, now)

    def _load(self, url: str) -> Entry | None:
        try:
            return client_cache.load(self.cache, url)
        except OSError as problem:
            _warn_once(self.cache, "read", problem)
            return None

    def _keep(self, url: str, entry: Entry, *, new: bool) -> None:
        try:
            client_cache.store(self.cache, url, entry)
        except OSError as problem:
            if new:
                _warn_once(self.cache, "written", problem)
            else:
                # The folder of a container image, say: what it holds is right, only its date stays.
                _log.debug("%s keeps its date: %s", url, problem)


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
    """Return class weights from a statsvc server, float32 [num_classes] on `device`, for a weighted loss.

    `url` is STATSVC_URL if left out; with `pinned` none is needed, with `sync` on rank 0 only. The rest
    is that of `Client.weights`. What the answer warns of goes to the log "statsvc.client". Raises as
    `Client.weights` does; needs PyTorch.
    """

    def ask() -> ClassWeights:
        answer = _answer(lambda: Client(url), {"dataset": dataset, **params}, pinned, expect_classes)
        for warning in answer.warnings:
            _log.warning("%s: %s", answer.dataset, warning["message"])
        return answer

    answer = _shared(ask, sync)
    answer.warn_if_not_weights()
    return answer.tensor(device)


def _answer(
    client: Callable[[], Client],
    question: Mapping[str, Any],
    pinned: dict[str, Any] | None,
    expect_classes: Sequence[str] | None,
) -> ClassWeights:
    """Return the weights of a question, pinned ones without a client."""
    if pinned is None:
        answer = client()._weights(question)
    else:
        from statsvc.client.pinned import recorded

        answer = recorded(pinned, question)
    if expect_classes is not None:
        answer.require_classes(expect_classes)
    return answer


def _shared(ask: Callable[[], ClassWeights], sync: bool) -> ClassWeights:
    """Return what `ask` returns, with `sync` what it returns on rank 0, and log what it is."""
    answer = from_rank_zero(ask) if sync else ask()
    here = rank()
    by = "" if here is None else f"rank {here}: "
    _log.info("%s%s, weights with digest %s", by, _named(answer), answer.digest)
    return answer


def _sampling(
    get: Callable[[str, Read], Any],
    dataset: str | None,
    sampler: str,
    version: int | str | None,
    params: Mapping[str, Any],
) -> Sampling:
    from statsvc.sampling import mixtures, result

    if mixtures.parse(dataset) is not None:
        raise InvalidParameter(
            ("dataset", f"{dataset} is a mixture, which no sampler draws from: make one for each dataset")
        )
    name = dataset if dataset is not None else result.only_dataset(_datasets(get))
    return result.fetch(
        lambda path, asked, read: get(path + query.query(asked), read),
        name,
        version,
        {"sampler": sampler, **params},
    )


def _datasets(get: Callable[[str, Read], Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        path = "/datasets" + query.query({"after": after or None})
        page, after = get(path, lambda body: (_list(body, "datasets"), body.get("next")))
        found += page
    return found


def _path(params: Mapping[str, Any]) -> str:
    if "format" in params:
        raise InvalidParameter(("format", "the client always asks for JSON; use .to_list() or .numpy()"))
    return "/weights" + query.query(params)


def _read_weights(body: Any) -> ClassWeights:
    from statsvc.weighting.class_weights import ClassWeights, checked_answer

    return ClassWeights(checked_answer(body))


def _list(body: Any, key: str) -> list[dict[str, Any]]:
    if not isinstance(body[key], list):
        raise TypeError(f"{key!r} is not a list")
    return list(body[key])


def _value(entry: Entry, read: Read) -> Any:
    """Return what an entry holds, or None where another version of statsvc wrote something else."""
    try:
        return read(json.loads(entry.body))
    except (ValueError, LookupError, TypeError):
        return None


def _named(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a page of {len(value[0])}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"{value['dataset']} version {value['version']} ({value['sampler']})"
    number = "" if value.version is None else f" version {value.version}"
    return f"{value.dataset}{number} ({value.method})"


def _warn_once(folder: Path, done: str, problem: OSError) -> None:
    level = logging.DEBUG if folder in _warned else logging.WARNING
    _warned.add(folder)
    _log.log(level, "the cache folder %s cannot be %s, going on without it: %s", folder, done, problem)

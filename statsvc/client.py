"""What a trainer imports: ask a statsvc server for class weights, with a conditional request."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from statsvc import client_cache, errors
from statsvc.client_cache import Entry
from statsvc.errors import InvalidParameter, ServerError

if TYPE_CHECKING:
    import httpx2
    import torch

    from statsvc.result import ClassWeights
    from statsvc.sampling_result import Sampling

_log = logging.getLogger("statsvc.client")

TIMEOUT = 10.0
"""Seconds to wait for a connection, and then for the next bytes, unless told otherwise."""

_ERRORS: dict[str, type[errors.StatsvcError]] = {
    "not-found": errors.NotFound,
    "conflict": errors.Conflict,
    "unanswerable": errors.Unanswerable,
    "source": errors.SourceError,
    "damaged-version": errors.DamagedVersion,
}
"""The exception of each problem type `/problems/<kind>` that is not about one parameter."""


class Client:
    """A statsvc server. Holds settings only: safe to pickle, to fork and to share between threads.

    url      where the server is, for instance "http://stats:8000"; STATSVC_URL if left out
    token    bearer token where the server asks for one; STATSVC_TOKEN if left out
    timeout  seconds to wait for a connection, and for the next bytes; STATSVC_TIMEOUT, else 10
    cache    folder for answers; STATSVC_CACHE, else `~/.cache/statsvc`

    Raises `InvalidParameter` where one of them is missing or malformed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.url = _checked_url(url or os.environ.get("STATSVC_URL", ""))
        self._token = _checked_token(token or os.environ.get("STATSVC_TOKEN") or None)
        self.timeout = _checked_timeout(timeout if timeout is not None else os.environ.get("STATSVC_TIMEOUT"))
        self.cache = Path(cache).expanduser() if cache else client_cache.default_folder()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def weights(
        self, dataset: str | None = None, *, version: int | str | None = None, **params: Any
    ) -> ClassWeights:
        """Ask for class weights.

        `params` are those of `GET /weights`, in their own types: `method="effective_num"`, `beta=0.999`,
        `ignore_index=[255]` (`[]` ignores nothing), `clip=(0.1, 10)`, `multiply={"person": 2}`. What is
        left out or None is the server's choice. The answer is asked for with `If-None-Match` and
        taken from the cache where the server says that it still holds.

        Raises `InvalidParameter`, `NotFound`, `Unanswerable` and their like where the server refuses
        the question, `ServerError` where there is no answer.
        """
        from statsvc.result import ClassWeights

        if "format" in params:
            raise InvalidParameter(("format", "the client always asks for JSON; use .to_list() or .numpy()"))
        return ClassWeights(
            self._get("/weights", {"dataset": dataset, "version": version, **params}, _answer)
        )

    def sampling(
        self, dataset: str | None = None, *, sampler: str, version: int | None = None, **params: Any
    ) -> Sampling:
        """Ask how probable each image is for a sampler: `rare_class`, `repeat_factor` or `image_weights`.

        `params` are those of `GET /datasets/{name}/sampling`, such as `split="train"` and
        `temperature=0.01`. Pages are cached as answers are. Raises as `weights` does.
        """
        from statsvc import sampling_result

        name = dataset if dataset is not None else sampling_result.only_dataset(self.datasets())
        return sampling_result.fetch(self._get, name, version, {"sampler": sampler, **params})

    def datasets(self) -> list[dict[str, Any]]:
        """Return the server's datasets, as `GET /datasets` describes each."""
        found: list[dict[str, Any]] = self._get("/datasets", {}, lambda body: _list(body, "datasets"))
        return found

    def methods(self) -> list[dict[str, Any]]:
        """Return every weighting method with formula, parameters, ranges and reference."""
        found: list[dict[str, Any]] = self._get("/methods", {}, lambda body: _list(body, "methods"))
        return found

    def _get(self, path: str, params: Mapping[str, Any], read: Callable[[Any], Any]) -> Any:
        """Return what `read` makes of the JSON at `path`.

        `read` raises `LookupError` or `TypeError` for JSON that is not statsvc's.
        """
        url = self.url + path + _query(params)
        entry = client_cache.load(self.cache, url)
        response = self._send(url, entry)
        if response.status_code == 304 and entry is not None:
            try:
                return read(json.loads(entry.body))
            except (ValueError, LookupError, TypeError):
                # Whole, yet not an answer: another version of statsvc wrote it.
                entry = None
                response = self._send(url, None)
        if response.status_code != 200:
            raise _refusal(url, response)
        try:
            _require_json(response)
            result = read(json.loads(response.content))
        except (ValueError, LookupError, TypeError) as problem:
            raise ServerError(
                f"{url} answered, but not as statsvc does: {problem}; does the URL name a statsvc server?"
            ) from None
        etag = response.headers.get("etag")
        if etag and "no-store" not in response.headers.get("cache-control", ""):
            client_cache.store(self.cache, url, Entry(etag, response.content))
        return result

    def _send(self, url: str, entry: Entry | None) -> httpx2.Response:
        import httpx2

        from statsvc import __version__

        headers = {"Accept": "application/json", "User-Agent": f"statsvc/{__version__}"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if entry is not None:
            headers["If-None-Match"] = entry.etag
        _log.debug("GET %s (If-None-Match: %s)", url, entry and entry.etag)
        try:
            # A redirect is not followed: it would take the token elsewhere, or end on a sign-in page.
            return httpx2.get(url, headers=headers, timeout=self.timeout, follow_redirects=False)
        except httpx2.TimeoutException:
            raise ServerError(
                f"{url} did not answer within {self.timeout:g} s; is the server busy or behind a firewall? "
                "Look at its log, or give a longer timeout (STATSVC_TIMEOUT)"
            ) from None
        except httpx2.ConnectError as problem:
            raise ServerError(
                f"cannot connect to {self.url}: {problem}; is `statsvc serve` running there, and is the URL "
                "right (STATSVC_URL)?"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as problem:
            raise ServerError(f"{url} broke off or answered malformed HTTP: {problem}; try again") from None


def class_weights(
    url: str | None = None,
    *,
    dataset: str | None = None,
    device: torch.device | str | None = None,
    **params: Any,
) -> torch.Tensor:
    """Return class weights from a statsvc server, float32 [num_classes] on `device`, for a weighted loss.

    `url` is STATSVC_URL if left out; `params` are those of `Client.weights`. What the answer warns of
    goes to the log "statsvc.client". Raises as `Client.weights` does; needs PyTorch.
    """
    answer = Client(url).weights(dataset, **params)
    answer.warn_if_not_weights()
    for warning in answer.warnings:
        _log.warning("%s: %s", answer.dataset, warning["message"])
    return answer.tensor(device)


def _checked_url(url: str) -> str:
    if not url:
        raise InvalidParameter(
            ("url", "give the server's URL, for instance http://127.0.0.1:8000, or set STATSVC_URL")
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidParameter(("url", f"{url!r} is not a URL like http://127.0.0.1:8000"))
    if "@" in parts.netloc:
        raise InvalidParameter(
            ("url", "leave user and password out of the URL; give token= or STATSVC_TOKEN")
        )
    if parts.query or parts.fragment:
        raise InvalidParameter(("url", f"{url!r}: leave out what follows ? or #; parameters are arguments"))
    return url.rstrip("/")


def _checked_token(token: str | None) -> str | None:
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidParameter(
            ("token", "a token is printable ASCII without spaces; is there a line break in it?")
        )
    return token


def _checked_timeout(value: float | str | None) -> float:
    if value is None or value == "":
        return TIMEOUT
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidParameter(("timeout", f"{value!r} is not a number of seconds above 0"))
    return seconds


def _query(params: Mapping[str, Any]) -> str:
    """Return `?…` in the order of names, so that one question has one URL and one cache entry."""
    pairs = sorted((name, _text(value)) for name, value in params.items() if value is not None)
    return f"?{urlencode(pairs, safe=',:')}" if pairs else ""


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{_text(item)}" for key, item in value.items())
    if isinstance(value, Iterable) and getattr(value, "shape", None) != ():
        return ",".join(_text(item) for item in value) or "none"
    # item() makes a Python number of a NumPy or Torch scalar, whose own text may name its type.
    return str(value.item() if hasattr(value, "item") else value)


def _require_json(response: httpx2.Response) -> None:
    kind = response.headers.get("content-type", "no content type").partition(";")[0].strip()
    if kind not in ("application/json", "application/problem+json"):
        raise ValueError(f"the content is {kind}, not JSON")


_KEYS = ("dataset", "version", "method", "kind", "spec", "exact", "classes", "weights", "warnings")


def _answer(body: Any) -> dict[str, Any]:
    for key in _KEYS:
        if key not in body:
            raise LookupError(f"{key!r} is missing")
    weights = body["weights"]
    if len(weights) != len(body["classes"]) or not all(_is_number(weight) for weight in weights):
        raise TypeError("the weights are not one number for each class")
    return dict(body)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _list(body: Any, key: str) -> list[dict[str, Any]]:
    if not isinstance(body[key], list):
        raise TypeError(f"{key!r} is not a list")
    return list(body[key])


def _refusal(url: str, response: httpx2.Response) -> errors.StatsvcError:
    """Return the exception for an answer that is not 200."""
    status = response.status_code
    if response.has_redirect_location:
        return ServerError(
            f"{url} redirects to {response.headers['location']}, which is not followed; "
            "give the server's own URL (STATSVC_URL)"
        )
    try:
        _require_json(response)
        problem = json.loads(response.content)
        kind, detail = str(problem["type"]).rpartition("/problems/")[2], str(problem["detail"])
        if kind == "invalid-parameter":
            return InvalidParameter(*((item["parameter"], item["message"]) for item in problem["errors"]))
    except (ValueError, LookupError, TypeError):
        return ServerError(
            f"{url} answered {status} {response.reason_phrase}, and not as statsvc does; "
            "does the URL name a statsvc server?"
        )
    if kind in _ERRORS:
        return _ERRORS[kind](detail)
    if status in (401, 403):
        return ServerError(f"{url} answered {status}: {detail} (give token= or STATSVC_TOKEN)")
    return ServerError(f"{url} answered {status} {response.reason_phrase}: {detail}")

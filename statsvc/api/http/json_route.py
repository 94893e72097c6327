"""Routes that parse and validate large JSON bodies in a thread, in small steps.

The event loop serves every other request in the meantime. A thread alone would not help: the JSON parser in C
holds the interpreter's lock until it has finished. So a large body is parsed by the parser in Python, which
gives the lock up every few milliseconds.
"""

from __future__ import annotations

import codecs
import json
from json import scanner
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from statsvc.api.http.problems import parameters_of
from statsvc.api.http.request_bodies import InvalidBody
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.responses import Response
    from starlette.types import Receive, Scope

SMALL_BYTES = 1 << 15
"""A body up to this size is parsed in one step, which takes less than a millisecond."""

STEP_BYTES = 1 << 20
"""Bytes that are decoded in one step."""

PARSED_AT_ONCE = 2
"""Large bodies that are parsed at the same time."""


class JsonRoute(APIRoute):
    """A route whose JSON body is parsed by `loads`, and validated in the same thread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, with requests of `_JsonRequest`."""
        handle = super().get_route_handler()
        model = None if self.body_field is None else self.body_field.field_info.annotation
        limiter = anyio.CapacityLimiter(PARSED_AT_ONCE)

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive, model, limiter))

        return handle_json


class _JsonRequest(Request):
    """A request whose `json` is already validated, so that the framework has nothing more to do."""

    def __init__(self, scope: Scope, receive: Receive, model: Any, limiter: anyio.CapacityLimiter) -> None:
        super().__init__(scope, receive)
        self._model, self._limiter = model, limiter

    async def json(self) -> Any:
        """Return the validated body, or an `InvalidBody`. Raises `json.JSONDecodeError`."""
        body = await self.body()
        if len(body) <= SMALL_BYTES:
            return json.loads(body)
        return await anyio.to_thread.run_sync(self._validated, body, limiter=self._limiter)

    def _validated(self, body: bytes) -> Any:
        value = loads(body)
        models = [kind for kind in (self._model, *getattr(self._model, "__args__", ())) if _is_model(kind)]
        if not models or value is None:
            return value
        try:
            return models[0].model_validate(value)
        except ValidationError as error:
            return InvalidBody(InvalidParameter(*parameters_of(error.errors(include_url=False), ("body",))))


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def loads(body: bytes) -> Any:
    """Parse JSON like `json.loads`, several times slower, but without holding the interpreter's lock.

    Raises `json.JSONDecodeError`, `UnicodeDecodeError`, and `RecursionError`.
    """
    decoder = codecs.getincrementaldecoder(json.detect_encoding(body))()
    pieces = [decoder.decode(body[start : start + STEP_BYTES]) for start in range(0, len(body), STEP_BYTES)]
    return _STEPWISE.decode("".join([*pieces, decoder.decode(b"", final=True)]))


def _stepwise_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # `dict` would hold the lock for the whole list.
    return {name: value for name, value in pairs}  # noqa: C416


class _StepwiseDecoder(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_stepwise_dict)
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]


_STEPWISE = _StepwiseDecoder()

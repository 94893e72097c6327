"""Observation of every request: its id, counters and durations for `/metrics`, and the access log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Histogram

from statsvc.api.http.log_fields import log_fields
from statsvc.common.logs import REQUEST_ID, new_request_id, set_request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import CollectorRegistry
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

access_log = logging.getLogger("statsvc.access")

OTHER = "other"
"""Label of requests that no documented route has answered: unknown paths, static files, rejected requests."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram of durations, in seconds."""

EXPECTED_STATUS = (200, 500)
"""Statuses whose series exist from the start, so that the first error is an increase from 0."""


class RequestMetrics:
    """Numbers of requests and their durations. Only for use in the event loop.

    routes  (method, path template, endpoint) of the documented routes. All others share one label, so the
            number of series does not depend on what clients send.
    """

    def __init__(
        self, registry: CollectorRegistry, routes: Iterable[tuple[str, str, Callable[..., Any]]]
    ) -> None:
        self._requests = Counter(
            "statsvc_http_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "statsvc_http_request_duration_seconds",
            "Time from the request's headers to the response's headers.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._routes: dict[tuple[Any, str], tuple[str, str]] = {
            (endpoint, method): (method, path) for method, path, endpoint in routes
        }
        self._series: dict[tuple[tuple[str, str], int], tuple[Counter, Histogram]] = {}
        for method, path in ((OTHER, OTHER), *self._routes.values()):
            self._seconds.labels(method, path)
            for status in EXPECTED_STATUS:
                self._requests.labels(method, path, status)

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that was answered with this status after this time."""
        labels = self._routes.get((scope.get("endpoint"), scope["method"]), (OTHER, OTHER))
        key = (labels, status)
        series = self._series.get(key)
        if series is None:
            series = self._requests.labels(*labels, status), self._seconds.labels(*labels)
            self._series[key] = series
        series[0].inc()
        series[1].observe(seconds)


class Observe:
    """Gives each request an id, counts it, and measures the time until the response begins.

    The id is that of the header X-Request-ID, if it is valid. It is in the response, in every line that is
    logged for the request, and in the job that the request queues.

    access_log  whether every request is logged, without its query and headers, which can contain secrets
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics, access_log: bool = False) -> None:
        self._app, self._metrics, self._access_log = app, metrics, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        is_valid = len(given) == 1 and REQUEST_ID.fullmatch(given[0])
        request_id = given[0] if is_valid else new_request_id().encode()
        set_request_id(request_id.decode())

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
                self._end(scope, status, started)
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        except Exception:
            if not status:  # Starlette answers with 500 outside of all middleware
                self._end(scope, 500, started)
            raise

    def _end(self, scope: Scope, status: int, started: float) -> None:
        seconds = time.perf_counter() - started
        self._metrics.observe(scope, status, seconds)
        if self._access_log:
            fields = log_fields(scope, status)
            access_log.info(
                "%s %s %d %.1f ms client=%s",
                *(fields["method"], fields["path"], status, seconds * 1000, fields["client"]),
                extra={"fields": {**fields, "seconds": round(seconds, 6)}},
            )

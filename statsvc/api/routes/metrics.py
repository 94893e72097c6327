"""GET /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import exposition
from starlette.responses import Response

from statsvc.api.http import problems, query
from statsvc.api.state.service import InjectedService

router = APIRouter(tags=["service"], default_response_class=Response)

_TEXT = {"schema": {"type": "string"}}


@router.get(
    "/metrics",
    responses={
        200: {
            "description": "The metrics, in OpenMetrics if the Accept header prefers it.",
            "content": {
                "text/plain": {**_TEXT, "example": "statsvc_catalog_up 1.0\n"},
                "application/openmetrics-text": _TEXT,
            },
        },
        **problems.documented(),
    },
)
async def get_metrics(request: Request, service: InjectedService) -> Response:
    """Return metrics of requests, jobs, runners and datasets for Prometheus.

    The values come from what the server keeps in memory: a scrape reads neither the catalog nor the version
    store. Counters begin at 0 when the server starts.
    """
    query.read(request, {})
    encode, media_type = exposition.choose_encoder(",".join(request.headers.getlist("accept")))
    body = await service.in_thread(encode, request.app.state.registry)
    return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

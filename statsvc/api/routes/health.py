"""GET /healthz and GET /readyz."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import documentation, query
from statsvc.api.http.access import CALLER, OPEN
from statsvc.api.http.responses import json_response
from statsvc.api.schemas.service import Health, Readiness
from statsvc.api.state.service import InjectedService
from statsvc.errors import CatalogError, InvalidParameter

if TYPE_CHECKING:
    from statsvc.store.catalog.operations import Operations

router = APIRouter(tags=["service"], default_response_class=Response)

PARAMETERS = {
    "for": query.QueryParameter(
        "reads: whether the server can answer reads, which it also does while the catalog is unavailable",
        {"type": "string", "enum": ["reads"]},
    ),
}


@router.get("/healthz", responses=documentation.responses(Health, description="The process is up."))
async def get_health() -> Response:
    """Return ok if the process accepts requests."""
    return json_response({"status": "ok"}, headers={"Cache-Control": "no-store"})


@router.get(
    "/readyz",
    openapi_extra=documentation.parameters(PARAMETERS),
    responses=documentation.responses(Readiness, description="The server can do its work."),
)
async def get_readiness(request: Request, service: InjectedService) -> Response:
    """Return ok if the catalog is available and has a schema that this release can use.

    Otherwise the status is 503, but `for=reads` returns 200: the server goes on answering reads from memory.
    `store` is `ok`, or why the version store did not respond to the last request. The status is 200 all the
    same: cached responses are still served, and other replicas use the same version store. Where requests
    need tokens, a client without one learns only whether the server is ready.
    """
    values = query.read(request, PARAMETERS)
    if values.get("for", "reads") != "reads":
        raise InvalidParameter(("for", f"{values['for']!r} is unknown; the only value is 'reads'"))
    await service.watcher.fresh()
    is_trusted = request.app.state.policy == OPEN or request.scope.get(CALLER) is not None
    problem, store = service.watcher.problem, service.store.last_error
    if not is_trusted:
        problem, store = problem and "unavailable", store and "unavailable"
    if problem is not None and values.get("for") != "reads":
        raise CatalogError(problem)
    return json_response(
        {
            "status": "ok",
            "catalog": problem or "ok",
            "age": service.watcher.age,
            "store": store or "ok",
            **_scans(service.watcher.operations, is_trusted),
        },
        headers={"Cache-Control": "no-store"},
    )


def _scans(operations: Operations | None, is_trusted: bool) -> dict[str, str]:
    """Return whether runners are up and scans succeed. No names: this path needs no token."""
    if operations is None:
        return {"runners": "unknown", "scans": "unknown"}
    missing, failing = operations.missing_runner(), len(operations.failing)
    if not is_trusted:
        return {"runners": "missing" if missing else "ok", "scans": "failing" if failing else "ok"}
    return {
        "runners": missing or "ok",
        "scans": f"the newest scan of {failing} dataset{'s'[: failing > 1]} failed" if failing else "ok",
    }

"""GET /healthz and GET /readyz."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from statsvc.api.http import documentation
from statsvc.api.http.responses import json_response
from statsvc.api.schemas.service import Health, Readiness
from statsvc.api.state.service import InjectedService
from statsvc.errors import CatalogError
from statsvc.store.catalog.engine import SCHEMA, schema_of

router = APIRouter(tags=["service"], default_response_class=Response)


@router.get("/healthz", responses=documentation.responses(Health, description="The process is up."))
async def get_health() -> Response:
    """Return ok if the process accepts requests."""
    return json_response({"status": "ok"}, headers={"Cache-Control": "no-store"})


@router.get("/readyz", responses=documentation.responses(Readiness, description="The catalog can be used."))
async def get_readiness(service: InjectedService) -> Response:
    """Return ok if the catalog is available and has the schema of this release.

    `store` is `ok`, or why the version store did not respond to the last request. The status is 200 all the
    same: cached responses are still served, and other replicas use the same version store.
    """
    schema = await service.in_thread(schema_of, service.catalog.engine)
    if schema != SCHEMA:
        raise CatalogError(
            f"the catalog has schema {schema}, but this release of statsvc requires {SCHEMA}; "
            "run statsvc upgrade, or install the release that matches the catalog"
        )
    return json_response(
        {"status": "ok", "store": service.store.last_error or "ok"}, headers={"Cache-Control": "no-store"}
    )

"""GET /healthz and /readyz."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from statsvc.api.http.responses import json_response
from statsvc.api.state.service import Shared
from statsvc.errors import CatalogError
from statsvc.store.catalog.engine import SCHEMA, schema_of

router = APIRouter()


@router.get("/healthz")
async def get_health() -> Response:
    """Return ok: the process is up."""
    return json_response({"status": "ok"}, headers={"Cache-Control": "no-store"})


@router.get("/readyz")
async def get_readiness(service: Shared) -> Response:
    """Return ok where the catalog answers with this release's schema, else 503.

    `store` is ok, or why the store of versions did not answer when it was last asked: what is in memory is
    answered all the same, so that this is no reason to ask another replica.
    """
    found = await service.in_thread(schema_of, service.catalog.engine)
    if found != SCHEMA:
        raise CatalogError(f"the catalog has schema {found}, this statsvc knows {SCHEMA}")
    return json_response(
        {"status": "ok", "store": service.store.last_error or "ok"}, headers={"Cache-Control": "no-store"}
    )

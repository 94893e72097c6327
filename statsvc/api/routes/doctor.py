"""GET /datasets/{name}/doctor."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import conditional, documentation, problems, query
from statsvc.api.http.documentation import DatasetName
from statsvc.api.schemas.statistics import DoctorReport
from statsvc.api.state.service import InjectedService
from statsvc.doctor.report import examine
from statsvc.store.versions.cached_table import CachedTable
from statsvc.weighting.serialize import json_bytes

router = APIRouter(tags=["statistics"], default_response_class=Response)

PARAMETERS = {"version": query.VERSION}


@router.get(
    "/datasets/{name}/doctor",
    openapi_extra=documentation.parameters(PARAMETERS, documentation.IF_NONE_MATCH),
    responses=documentation.cacheable(DoctorReport, *problems.OF_COUNTS, description="The findings."),
)
async def get_doctor_report(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return what is probably wrong in the label maps of a version.

    Each finding has the observation, the affected files, the effect on weights, and a recommended action.
    """
    values = query.read(request, PARAMETERS)
    number = query.version(values, PARAMETERS)
    published = await service.published(name, number)

    def render(table: CachedTable) -> bytes:
        return json_bytes(examine(table, table.stored.array if table.has_rows else None))

    has_rows = published.record.expired_at is None
    tag = conditional.etag(published.digest, {"rows": has_rows}, "doctor")
    return await service.respond(request, tag, render, published, pinned=isinstance(number, int))

"""POST /datasets/{name}/versions/import: counts taken elsewhere become a version."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api.http import query
from statsvc.api.http.content_type import json_only
from statsvc.api.http.descriptions import version_description
from statsvc.api.http.request_bodies import ConfigurationBody
from statsvc.api.http.responses import json_response
from statsvc.api.state.service import Shared
from statsvc.dataset.table import Histogram
from statsvc.errors import InvalidParameter
from statsvc.store import import_files
from statsvc.store.importing import import_counts

router = APIRouter()


class NewCounts(ConfigurationBody):
    """Counts of a whole dataset, or of each of its samples, and how they are read."""

    counts: dict[str, Any] | None = Field(
        None, description='raw id → pixels of the whole dataset, {"7": 2036416525}'
    )
    images: dict[str, Any] | None = Field(
        None, description="raw id → images in which it occurs; without it, methods that need it answer 422"
    )
    samples: list[Any] | dict[str, Any] | None = Field(
        None,
        description="instead of counts, those of each label map, as in DAFormer's sample_class_stats.json: "
        '[{"file": "a.png", "0": 1200, "5": 17}]',
    )

    def read(self) -> Histogram | import_files.SampleCounts:
        """Return the counts. Raises `InvalidParameter`."""
        if (self.counts is None) == (self.samples is None):
            raise InvalidParameter(("counts", "give counts of the whole dataset, or samples; one of them"))
        if self.samples is not None and self.images is not None:
            raise InvalidParameter(("images", "belongs to counts; from samples it follows"))
        field = "samples" if self.samples is not None else "counts"
        try:
            if self.samples is not None:
                return import_files.read_samples(self.samples)
            assert self.counts is not None
            return import_files.read_totals(self.counts, self.images)
        except ValueError as problem:
            raise InvalidParameter((field, str(problem).lstrip(",: "))) from None


@router.post("/datasets/{name}/versions/import", status_code=201, dependencies=[Depends(json_only)])
async def post_import(request: Request, name: str, body: NewCounts, service: Shared) -> Response:
    """Publish counts as the next version of a dataset, which is made where there is none."""
    query.read(request, {})
    changes = body.changes()

    def publish() -> dict[str, Any]:
        record = import_counts(service.catalog, service.store, name, body.read(), changes)
        return {"dataset": name} | version_description(record, [])

    described = await service.in_thread(publish)
    await service.watch.refresh()
    return json_response(described, 201, {"Location": f"/datasets/{name}"})

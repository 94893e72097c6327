"""POST /datasets/{name}/versions/import: publish counts that another program made."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api.http import documentation, problems, query
from statsvc.api.http.body_schemas import Samples, Totals
from statsvc.api.http.content_type import json_only
from statsvc.api.http.descriptions import version_description
from statsvc.api.http.documentation import DatasetName
from statsvc.api.http.json_route import JsonRoute
from statsvc.api.http.request_bodies import ConfigurationBody
from statsvc.api.http.responses import json_response
from statsvc.api.schemas.datasets import ImportedVersion
from statsvc.api.state.service import InjectedService
from statsvc.dataset.histogram import Histogram
from statsvc.errors import Inapplicable, InvalidParameter
from statsvc.store import import_files
from statsvc.store.importing import import_counts

router = APIRouter(tags=["versions"], default_response_class=Response, route_class=JsonRoute)


class NewCounts(ConfigurationBody):
    """Counts of a whole dataset or of each sample, and how they are interpreted."""

    counts: Totals | None = Field(
        None, description='raw id → pixels in the whole dataset, such as {"7": 2036416525}'
    )
    images: Totals | None = Field(
        None,
        description="raw id → images that contain it; without this field, methods that need image counts are "
        "rejected with 422",
    )
    samples: Samples | None = Field(
        None,
        description="counts of each label map, instead of `counts`, as in DAFormer's "
        'sample_class_stats.json: [{"file": "a.png", "0": 1200, "5": 17}]',
    )

    def read(self) -> Histogram | import_files.SampleCounts:
        """Return the counts. Raises `InvalidParameter`."""
        if (self.counts is None) == (self.samples is None):
            raise Inapplicable(("counts", "send either counts (of the whole dataset) or samples"))
        if self.samples is not None and self.images is not None:
            raise Inapplicable(
                (
                    "images",
                    "leave it out: it is computed from samples",
                )
            )
        field = "samples" if self.samples is not None else "counts"
        try:
            if self.samples is not None:
                return import_files.read_samples(self.samples)
            assert self.counts is not None
            return import_files.read_totals(self.counts, self.images)
        except import_files.Contradiction as problem:
            raise Inapplicable((field, str(problem).lstrip(",: "))) from None
        except ValueError as problem:
            raise InvalidParameter((field, str(problem).lstrip(",: "))) from None


@router.post(
    "/datasets/{name}/versions/import",
    status_code=201,
    dependencies=[Depends(json_only)],
    responses=documentation.responses(
        ImportedVersion,
        problems.CONFLICT,
        problems.UNANSWERABLE,
        problems.READ_ONLY_STORE,
        problems.STORE_UNAVAILABLE,
        *problems.OF_BODIES,
        status=201,
        description="The published version.",
        headers={"Location": documentation.LOCATION},
    ),
)
async def import_version(
    request: Request, name: DatasetName, body: NewCounts, service: InjectedService
) -> Response:
    """Publish counts as the next version of a dataset.

    If there is no dataset of this name, it is created without a source.
    """
    query.read(request, {})

    def publish() -> dict[str, Any]:
        record = import_counts(service.catalog, service.store, name, body.read(), body.changes())
        return {"dataset": name} | version_description(record, [])

    version = await service.in_thread(publish)
    await service.watcher.refresh()
    return json_response(version, 201, {"Location": f"/datasets/{name}"})

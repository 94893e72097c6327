"""GET /datasets/{name}/samples: the rows of a version in pages."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import documentation, problems, query
from statsvc.api.http.documentation import DatasetName
from statsvc.api.http.responses import json_response
from statsvc.api.schemas.statistics import SamplePage
from statsvc.api.state.service import InjectedService
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.store.versions.arrays import ROWS_PER_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from statsvc.store.versions.version import Version

router = APIRouter(tags=["statistics"], default_response_class=Response)

PAGE_SIZE = 100
STATUS = ("counted", "failed")
_ARRAYS = ("path", "size", "height", "width", "pixels", "status", "error")
PARAMETERS = {
    "version": query.VERSION,
    "limit": query.integer_parameter(f"samples per page; default {PAGE_SIZE}", high=1000),
    "after": query.QueryParameter("only samples after this path: `next` of the previous page"),
    "status": query.QueryParameter("only samples with this status", {"type": "string", "enum": list(STATUS)}),
    "class_id": query.integer_parameter("only samples that contain this raw id", *query.INT64),
}


@router.get(
    "/datasets/{name}/samples",
    openapi_extra=documentation.parameters(PARAMETERS),
    responses=documentation.responses(
        SamplePage,
        problems.NOT_FOUND,
        problems.UNANSWERABLE,
        *problems.OF_ARRAYS,
        description="A page of samples.",
    ),
)
async def list_samples(request: Request, name: DatasetName, service: InjectedService) -> Response:
    """Return samples in path order, each with its size, shape and the pixels of every raw id."""
    values = query.read(request, PARAMETERS)
    number = query.version(values, PARAMETERS)
    limit = query.integer(values, "limit", PARAMETERS) or PAGE_SIZE
    class_id = query.integer(values, "class_id", PARAMETERS)
    status = values.get("status")
    if status is not None and status not in STATUS:
        raise InvalidParameter(("status", f"expected counted or failed, not {status!r}"))
    published = await service.published(name, number)
    stored = service.table(published).stored

    def read() -> dict[str, Any]:
        samples: list[dict[str, Any]] = []
        for sample in matching(stored, values.get("after"), status, class_id):
            if len(samples) == limit:
                return {"samples": samples, "next": samples[-1]["path"]}
            samples.append(sample)
        return {"samples": samples, "next": None}

    page = await service.in_thread(read)
    return json_response({"dataset": published.dataset, "version": published.record.number} | page)


def matching(
    version: Version, after: str | None, status: str | None, class_id: int | None
) -> Iterator[dict[str, Any]]:
    """Yield the samples after a path that have a status and contain a raw id; None matches all.

    Reads only the chunks that it needs.

    Raises `Unanswerable` for a version without rows.
    """
    if not version.has_rows:
        raise Unanswerable(version.why_no_rows())
    arrays = {name: version.array(name) for name in _ARRAYS}  # held, because the cache may drop them
    paths, states, ids = arrays["path"], arrays["status"], version.raw_ids()
    start = 0 if after is None else bisect_right(paths, after)
    column = None if class_id is None else int(np.searchsorted(ids, class_id))
    if column is not None and (column == len(ids) or ids[column] != class_id):
        return
    for low in range(start - start % ROWS_PER_CHUNK, len(paths), ROWS_PER_CHUNK):
        rows = np.arange(max(low, start), min(low + ROWS_PER_CHUNK, len(paths)))
        if status is not None:
            rows = rows[(states[rows] == 0) == (status == "counted")]
        if not len(rows):
            continue
        counts = version.counts(int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]]
        if column is not None:
            present = counts[:, column] > 0
            rows, counts = rows[present], counts[present]
        for row, count in zip(rows.tolist(), counts, strict=True):
            yield _sample(arrays, row, ids, count)


def _sample(
    arrays: Mapping[str, np.ndarray[Any, Any]], row: int, ids: NDArray[np.int64], count: NDArray[np.int64]
) -> dict[str, Any]:
    counted = arrays["status"][row] == 0
    # Imported samples have counts but no shape.
    height, width = int(arrays["height"][row]), int(arrays["width"][row])
    present = np.flatnonzero(count)
    return {
        "path": str(arrays["path"][row]),
        "size": int(arrays["size"][row]),
        "height": height if counted and height else None,
        "width": width if counted and width else None,
        "pixels": int(arrays["pixels"][row]) if counted else None,
        "status": "counted" if counted else "failed",
        "error": None if counted else str(arrays["error"][row]),
        "counts": {str(ids[k]): int(count[k]) for k in present},
    }

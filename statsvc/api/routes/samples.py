"""GET /datasets/{name}/samples: the rows of a version, page by page."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from statsvc.api.http import query
from statsvc.api.http.responses import json_response
from statsvc.api.state.service import Shared
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.store.versions.arrays import ROWS_PER_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from statsvc.store.versions.version import Version

router = APIRouter()

STATUS = ("counted", "failed")
PARAMETERS = {
    "version": query.VERSION,
    "limit": query.integer_parameter("samples on a page; default 100", high=1000),
    "after": query.QueryParameter("only samples behind this path: the `next` of the page before"),
    "status": query.QueryParameter("counted or failed ones only", {"type": "string", "enum": list(STATUS)}),
    "class_id": query.integer_parameter("only samples in which this raw id occurs", *query.INT64),
}


@router.get("/datasets/{name}/samples", openapi_extra=query.documented(PARAMETERS))
async def get_samples(request: Request, name: str, service: Shared) -> Response:
    """Return samples in path order, each with its size, shape and the pixels of every raw id."""
    given = query.read(request, PARAMETERS)
    number = query.version(given, PARAMETERS)
    limit = query.integer(given, "limit", PARAMETERS) or 100
    class_id = query.integer(given, "class_id", PARAMETERS)
    status = given.get("status")
    if status is not None and status not in STATUS:
        raise InvalidParameter(("status", f"expected counted or failed, not {status!r}"))
    published = await service.published(name, number)
    stored = service.table(published).stored

    def read() -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        for sample in matching(stored, given.get("after"), status, class_id):
            if len(found) == limit:
                break
            found.append(sample)
        else:
            return {"samples": found, "next": None}
        return {"samples": found, "next": found[-1]["path"]}

    page = await service.in_thread(read)
    return json_response({"dataset": published.dataset, "version": published.record.number} | page)


def matching(
    version: Version, after: str | None, status: str | None, class_id: int | None
) -> Iterator[dict[str, Any]]:
    """Yield the samples behind a path that have a status and a raw id, reading only the chunks needed.

    Raises `Unanswerable` for a version without rows.
    """
    if not version.has_rows:
        raise Unanswerable(version.why_no_rows())
    paths, states, ids = version.array("path"), version.array("status"), version.raw_ids()
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
            yield _sample(version, row, ids, count)


def _sample(version: Version, row: int, ids: NDArray[np.int64], count: NDArray[np.int64]) -> dict[str, Any]:
    counted = version.array("status")[row] == 0
    # Imported counts do not say what shape their label maps had.
    height, width = int(version.array("height")[row]), int(version.array("width")[row])
    present = np.flatnonzero(count)
    return {
        "path": str(version.array("path")[row]),
        "size": int(version.array("size")[row]),
        "height": height if counted and height else None,
        "width": width if counted and width else None,
        "pixels": int(version.array("pixels")[row]) if counted else None,
        "status": "counted" if counted else "failed",
        "error": None if counted else str(version.array("error")[row]),
        "counts": {str(ids[k]): int(count[k]) for k in present},
    }

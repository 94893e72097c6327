"""POST /datasets/{name}/splits: divide a dataset into stratified folds or parts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from statsvc.api.http import documentation, problems, query
from statsvc.api.http.body_schemas import BuiltinClassMap, Expression, Folds, Id, NumClasses, Parts, Seed
from statsvc.api.http.content_type import json_only
from statsvc.api.http.documentation import DatasetName
from statsvc.api.http.request_bodies import RequestBody
from statsvc.api.http.responses import json_response
from statsvc.api.schemas.splits import Division
from statsvc.api.state.service import InjectedService
from statsvc.splitting.divide import divide_dataset
from statsvc.splitting.request import COUNT_PARAMETERS, MAX_PARTS, DivisionRequest
from statsvc.store import reconfigure
from statsvc.weighting.parameters import PARAMETERS

router = APIRouter(tags=["datasets"], default_response_class=Response)


class NewSplits(RequestBody):
    """How to divide a dataset."""

    folds: Folds | None = Field(None, description=f"number of folds of equal size, 2 to {MAX_PARTS}")
    parts: Parts | None = Field(
        None, description='instead of folds: share of the images by part, such as {"train": 0.8, "val": 0.2}'
    )
    seed: Seed = Field(0, description="another seed gives another division")
    group: Expression | None = Field(
        None,
        description="what is never divided: the name of a group rule of the dataset, `folder:LEVEL`, or an "
        r"expression over the path whose first group is the value, such as `^(\w+?)_`",
    )
    split: str | None = Field(None, min_length=1, description=PARAMETERS["split"].documentation())
    class_map: BuiltinClassMap | None = Field(None, description=PARAMETERS["class_map"].documentation())
    ignore_index: list[Id] | None = Field(None, description=PARAMETERS["ignore_index"].documentation())
    num_classes: NumClasses | None = Field(None, description=PARAMETERS["num_classes"].documentation())
    dry_run: bool = Field(
        False, description="return the division without registering its parts, or fold0_train, …, as splits"
    )
    replace: bool = Field(False, description="replace splits of the same names")


@router.post(
    "/datasets/{name}/splits",
    dependencies=[Depends(json_only)],
    responses=documentation.responses(
        Division,
        problems.NOT_FOUND,
        problems.CONFLICT,
        problems.UNANSWERABLE,
        *problems.OF_ARRAYS,
        *problems.OF_BODIES,
        description="The division.",
    ),
)
async def create_splits(
    request: Request, name: DatasetName, body: NewSplits, service: InjectedService
) -> Response:
    """Divide a dataset into folds or parts that represent every class.

    Each part gets its share of the pixels of every class and of the images that contain it. The same request
    returns the same division. Registering publishes a new version over the same counts.
    """
    query.read(request, {})
    published = await service.published(name, None)
    table = service.table(published)

    def divide() -> dict[str, Any]:
        grouping = None if body.group is None else table.configuration.grouping(body.group, files=False)
        counts = {key: getattr(body, key) for key in COUNT_PARAMETERS}
        wanted = DivisionRequest.from_params(
            folds=body.folds, parts=body.parts, seed=body.seed, grouping=grouping, **counts
        )
        result = divide_dataset(table, wanted)
        registered = None
        if not body.dry_run:
            record = reconfigure.add_splits(
                service.catalog,
                service.store,
                service.catalog.dataset(name),
                result.configured(),
                replace_existing=body.replace,
            )
            registered = None if record is None else record.number
        samples = {part: list(paths) for part, paths in result.parts.items()}
        return {**result.report, "samples": samples, "registered": registered}

    division = await service.in_thread(divide)
    await service.watcher.refresh()
    return json_response(division)

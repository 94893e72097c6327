"""Responses of `/datasets/{name}/histogram`, `/cooccurrence`, `/diff`, `/samples` and `/doctor`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from statsvc.api.schemas.base import ResponseModel, example
from statsvc.api.schemas.weights import Approximation, Number, UnexpectedId


class ObjectSizes(ResponseModel):
    """Number and sizes of the objects of one id."""

    count: int = Field(description="number of objects")
    smallest: int | None = Field(description="size of the smallest object in pixels; null without objects")
    median: float | None = Field(description="median size in pixels; null without objects")
    below_16: float | None = Field(
        description="share of objects of fewer than 16x16 pixels, which an output with a stride of 16 may "
        "not resolve; null without objects"
    )
    below_32: float | None = Field(description="share of objects of fewer than 32x32 pixels")
    sizes: list[int] = Field(description="number of objects of 2^k to 2^(k+1) - 1 pixels, from k = 0 on")


class HistogramRow(ResponseModel):
    """Counts of one id."""

    id: int = Field(description="the id after the class map; the raw id without one")
    name: str = Field(description="class name, or the id as text if it has no name")
    pixels: Number = Field(description="pixels with this id; for crops, the expected number")
    images: int | None = Field(description="images that contain the id; null if unknown")
    share: float = Field(description="share of all pixels, 0 to 1")
    objects: ObjectSizes | None = Field(
        None, description="objects of the id; left out if the label maps do not number them"
    )
    ignored: bool = Field(False, description="true if the id is ignored; otherwise left out")
    unexpected: bool = Field(False, description="true if the id is unexpected; otherwise left out")


class Histogram(ResponseModel):
    """Pixels and images of every id."""

    model_config = example(
        {
            "dataset": "camvid",
            "version": 3,
            "exact": True,
            "split": None,
            "class_map": "none",
            "ignore_index": [11],
            "num_classes": 11,
            "images": 367,
            "failed": 0,
            "pixels": 63417600,
            "classes": [{"id": 0, "name": "sky", "pixels": 10682767, "images": 366, "share": 0.16845}],
            "unexpected": [],
            "schema": 1,
        }
    )

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    exact: bool = Field(
        description="false if the counts are an estimate from some of the images, or those of crops"
    )
    crop: list[int] | None = Field(None, description="only with `crop`: height and width")
    approximation: Approximation | None = Field(None, description="only with `crop`")
    split: str | None = Field(description="the split that was counted; null for all samples")
    class_map: str = Field(description="name of the class map; `none` for raw ids")
    ignore_index: list[int] = Field(description="ignored ids")
    num_classes: int = Field(description="number of classes")
    images: int | None = Field(description="images counted; null if unknown")
    failed: int = Field(description="samples that could not be read")
    pixels: Number = Field(description="all pixels, including ignored ids; for crops, the expected number")
    classes: list[HistogramRow] = Field(description="one entry for each id that occurs, in order")
    unexpected: list[UnexpectedId] = Field(description="ids that do not map to a class")
    schema_: int = Field(alias="schema", description="revision of this format")


class ClassHeatMap(ResponseModel):
    """The share of one class in each tile."""

    id: int = Field(description="class id")
    name: str = Field(description="class name, or the class id as text if it has no name")
    share: list[list[float | None]] = Field(
        description="rows of tiles: share of the class in the counted pixels of each tile, over all images; "
        "null for a tile without counted pixels"
    )


class HeatMap(ResponseModel):
    """Where in the images the classes are."""

    model_config = example(
        {
            "dataset": "camvid",
            "version": 3,
            "split": "train",
            "class_map": "none",
            "grid": "2x2",
            "images": 367,
            "classes": [{"id": 0, "name": "sky", "share": [[0.31, 0.33], [0.0, 0.0]]}],
            "schema": 2,
        }
    )

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    split: str | None = Field(description="the split; null for all samples")
    class_map: str = Field(description="name of the class map; `none` for raw ids")
    grid: str = Field(description="rows and columns of tiles")
    images: int | None = Field(description="images counted; null if unknown")
    classes: list[ClassHeatMap] = Field(description="one entry for each counted class that occurs, in order")
    schema_: int = Field(alias="schema", description="revision of this format")


class Patch(ResponseModel):
    """A tile of an image, a volume or an array that contains a class."""

    path: str = Field(description="path of the file or folder, relative to the source")
    front: int = Field(description="first slice of the tile; 0 in an image")
    top: int = Field(description="first row of the tile")
    left: int = Field(description="first column of the tile")
    depth: int = Field(description="slices of the tile; 1 in an image")
    height: int = Field(description="rows of the tile")
    width: int = Field(description="columns of the tile")
    image_depth: int = Field(description="slices of the array; 1 for an image")
    image_height: int = Field(description="rows of the image or array")
    image_width: int = Field(description="columns of the image or array")
    pixels: int = Field(description="pixels of the class in the tile")


class PatchPage(ResponseModel):
    """A page of the tiles that contain a class, most pixels first."""

    model_config = example(
        {
            "dataset": "camvid",
            "version": 3,
            "class_id": 10,
            "name": "bicyclist",
            "split": "train",
            "class_map": "none",
            "grid": "8x8",
            "schema": 2,
            "patches": [
                {
                    "path": "train/0001TP_008820.png",
                    "front": 0,
                    "top": 180,
                    "left": 240,
                    "depth": 1,
                    "height": 45,
                    "width": 60,
                    "image_depth": 1,
                    "image_height": 360,
                    "image_width": 480,
                    "pixels": 2415,
                }
            ],
            "next": None,
        }
    )

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    class_id: int = Field(description="the class")
    name: str = Field(description="class name, or the class id as text if it has no name")
    split: str | None = Field(description="the split; null for all samples")
    class_map: str = Field(description="name of the class map; `none` for raw ids")
    grid: str | None = Field(description="grid of the tiles; null for parts of arrays without a grid")
    schema_: int = Field(alias="schema", description="revision of this format")
    patches: list[Patch] = Field(description="tiles with the class")
    next: int | None = Field(description="value of `after` for the next page; null on the last page")


class Sample(ResponseModel):
    """One sample of a version."""

    path: str = Field(description="path relative to the source")
    size: int = Field(description="size of the file in bytes")
    height: int | None = Field(description="height in pixels; null if unknown")
    width: int | None = Field(description="width in pixels; null if unknown")
    pixels: int | None = Field(description="number of pixels; null if the sample could not be read")
    status: Literal["counted", "failed"] = Field(description="whether the sample could be read")
    error: str | None = Field(description="why the sample could not be read; otherwise null")
    counts: dict[str, int] = Field(description="pixels by raw id; ids that do not occur are left out")


class SamplePage(ResponseModel):
    """A page of samples in path order."""

    model_config = example(
        {
            "dataset": "camvid",
            "version": 3,
            "samples": [
                {
                    "path": "train/0001TP_006690.png",
                    "size": 5421,
                    "height": 360,
                    "width": 480,
                    "pixels": 172800,
                    "status": "counted",
                    "error": None,
                    "counts": {"0": 31000, "3": 141800},
                }
            ],
            "next": "train/0001TP_006690.png",
        }
    )

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    samples: list[Sample]
    next: str | None = Field(description="value of `after` for the next page; null on the last page")


class WeightChange(ResponseModel):
    """The class whose weight a finding changes most."""

    class_: int = Field(alias="class", description="class id")
    name: str = Field(description="class name")
    weight: float = Field(description="weight as it is")
    mended: float = Field(description="weight after the recommended action")


class Finding(ResponseModel):
    """Something in the label maps that is probably wrong."""

    code: str = Field(description="stable identifier of the kind of finding")
    level: Literal["serious", "notice"] = Field(
        description="serious: weights or training are wrong unless you act; notice: check whether it is "
        "intended"
    )
    saw: str = Field(description="what was observed, in numbers")
    do: str = Field(description="recommended action")
    files: list[str] = Field(description="paths of the first or most affected files")
    count: int = Field(description="number of affected files")
    ids: list[int] = Field(description="affected raw ids")
    moves: WeightChange | None = Field(description="largest effect on a weight; null if there is none")


class DoctorWeights(ResponseModel):
    """The weights that the effect of a finding is measured on."""

    method: str = Field(description="weighting method")
    split: str | None = Field(description="split; null for all samples")


class DoctorReport(ResponseModel):
    """Findings on a version, the serious ones first."""

    model_config = example(
        {
            "dataset": "camvid",
            "version": 3,
            "images": 367,
            "weights": {"method": "sqrt_inv_freq", "split": None},
            "serious": 1,
            "findings": [
                {
                    "code": "unexpected_ids",
                    "level": "serious",
                    "saw": "2 ids do not map to a class: 12 and 13, with 5120 pixels",
                    "do": "ignore them, make them classes, or add them to the class map",
                    "files": ["train/0001TP_006690.png"],
                    "count": 1,
                    "ids": [12, 13],
                    "moves": None,
                }
            ],
            "looked_at": 0,
            "not_examined": [],
            "schema": 1,
        }
    )

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    images: int | None = Field(description="images counted; null if unknown")
    weights: DoctorWeights
    serious: int = Field(description="number of serious findings")
    findings: list[Finding]
    looked_at: int = Field(description="label maps that were read again for this report")
    not_examined: list[str] = Field(description="checks that were not possible, and why")
    schema_: int = Field(alias="schema", description="revision of this format")


class ClassName(ResponseModel):
    """A class that occurs."""

    id: int = Field(description="class id, after the class map")
    name: str = Field(description="class name, or the id as text if it has no name")


class CooccurrenceResponse(ResponseModel):
    """In how many images each two classes occur together."""

    model_config = example(
        {
            "dataset": "camvid",
            "version": 3,
            "exact": True,
            "split": None,
            "class_map": "none",
            "ignore_index": [11],
            "images": 367,
            "classes": [{"id": 0, "name": "sky"}, {"id": 1, "name": "building"}],
            "cooccurrence": [[366, 361], [361, 362]],
            "schema": 1,
        }
    )

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    exact: bool = Field(description="false if the counts are an estimate from some of the images")
    split: str | None = Field(description="the split that was counted; null for all samples")
    class_map: str = Field(description="name of the class map; `none` for raw ids")
    ignore_index: list[int] = Field(description="ignored ids")
    images: int = Field(description="images counted")
    classes: list[ClassName] = Field(description="the classes that occur, ascending")
    cooccurrence: list[list[int]] = Field(
        description="row r, column c: images that contain the classes r and c of `classes`; on the diagonal, "
        "images that contain the class"
    )
    schema_: int = Field(alias="schema", description="revision of this format")


class Compared(ResponseModel):
    """One side of a difference."""

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    split: str | None = Field(description="split or group; null for all samples")


class ValueChange(ResponseModel):
    """A value of a class on both sides."""

    from_: Number | None = Field(alias="from", description="value of the first side; null if unknown")
    to: Number | None = Field(description="value of the second side; null if unknown")
    change: float | None = Field(
        description="relative change; null where a value is unknown, and where only the first one is 0"
    )


class ClassDifference(ResponseModel):
    """The changes of one class."""

    id: int = Field(description="class id")
    name: str = Field(description="class name")
    pixels: ValueChange = Field(description="pixels of the class")
    images: ValueChange = Field(description="images that contain the class")
    share: ValueChange = Field(description="share of all counted pixels")
    weight: ValueChange = Field(description="class weight")


_CHANGE = {"from": 100, "to": 110, "change": 0.1}


class Difference(ResponseModel):
    """What differs between two versions, splits, groups or datasets."""

    model_config = example(
        {
            "from": {"dataset": "camvid", "version": 2, "split": None},
            "to": {"dataset": "camvid", "version": 3, "split": None},
            "distance": 0.0,
            "classes": [
                {"id": 0, "name": "sky"} | dict.fromkeys(("pixels", "images", "share", "weight"), _CHANGE)
            ],
            "warnings": [],
        }
    )

    from_: Compared = Field(alias="from", description="the first side")
    to: Compared = Field(description="the second side")
    distance: float = Field(description="Jensen-Shannon distance of the shares of pixels, 0 to 1")
    classes: list[ClassDifference] = Field(description="every class of either side, ascending")
    warnings: list[str] = Field(description="where the two are hard to compare, such as renamed classes")

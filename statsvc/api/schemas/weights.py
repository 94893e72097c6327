"""Responses of `/weights`, `/methods`, `/samplers` and `/datasets/{name}/sampling`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from statsvc.api.schemas.base import ResponseModel, example
from statsvc.weighting.parameters import PARAMETERS

Number = int | float


class ResultWarning(ResponseModel):
    """A reason to check the result before using it."""

    code: str = Field(description="stable identifier of the kind of warning")
    message: str = Field(description="what was observed and what to do about it")


class UnexpectedId(ResponseModel):
    """An id that occurs in the label maps and does not map to a class."""

    id: int = Field(description="the id after the class map, or the raw id if the map does not list it")
    pixels: int = Field(description="pixels with this id")
    examples: list[str] = Field(description="paths of some samples that contain the id")
    colour: str | None = Field(None, description="color that is missing from the palette, as #rrggbb")
    dataset: str | None = Field(None, description="dataset in which the id occurs; only for a mixture")


def _add_parameters(schema: dict[str, Any]) -> None:
    """Add every parameter of the table to the schema of `Spec`."""
    schema["properties"] = {
        name: {
            "anyOf": [parameter.type.json_schema(), {"type": "null"}],
            "description": parameter.documentation(),
        }
        for name, parameter in PARAMETERS.items()
    }
    for name in DATASET_DECIDES:
        schema["properties"][name] = {
            **PARAMETERS[name].type.json_schema(),
            "description": PARAMETERS[name].documentation(),
        }
    schema["required"] = list(DATASET_DECIDES)


DATASET_DECIDES = ("ignore_index", "num_classes")
"""Parameters that always have a value in a response: the dataset decides them if the request does not."""


class Spec(ResponseModel):
    """The parameters that the result was computed with, including defaults.

    Sending them again returns the same result. Parameters that do not apply to the method are left out.
    """

    model_config = ConfigDict(json_schema_extra=_add_parameters)


class ClassWeight(ResponseModel):
    """Counts and weight of one class."""

    id: int = Field(description="class id, which is also the index in `weights`")
    name: str = Field(description="class name, or the class id as text if it has no name")
    pixels: Number = Field(description="pixels of the class; for a stream, the expected number")
    images: Number | None = Field(description="images that contain the class; null if unknown")
    frequency: float = Field(description="share of the class in the pixels of `denominator`, 0 to 1")
    weight: float = Field(description="the weight")
    loss_share: float | None = Field(
        description="frequency times weight, as a share of all classes; null if `kind` is not weights"
    )
    objects: int | None = Field(
        None,
        description="only with effective_num and unit=objects: its objects, or the images that contain it if "
        "it is not divided into objects",
    )
    ignored: bool = Field(False, description="true if the class id is ignored; otherwise left out")
    absent: bool = Field(False, description="true if the class has no pixels; otherwise left out")
    seen: float | None = Field(
        None,
        description="only for a stream: share of the class in the stream divided by its share in the "
        "files; null if the files do not contain it",
    )
    interval: list[float] | None = Field(
        None,
        description="only for an estimate: 95 % interval of the class's share of the pixels, [low, high]",
    )
    weight_interval: list[float] | None = Field(
        None,
        description="only for an estimate: 95 % interval of the weight, [low, high]; left out if the weight "
        "depends on classes that are not estimated",
    )
    images_bound: float | None = Field(
        None,
        description="only for an estimate, and a class that is not estimated because too few of the drawn "
        "images contain it: upper 95 % bound of the share of images that contain it",
    )


class Estimate(ResponseModel):
    """The sample of the images that counts were estimated from."""

    images: int = Field(description="images that were drawn, unreadable ones included")
    of: int = Field(description="images of the dataset")
    confidence: float = Field(description="confidence of the intervals")


class StreamDataset(ResponseModel):
    """One dataset of a stream."""

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    share: float = Field(description="share of draws that come from this dataset, 0 to 1")
    images: int = Field(description="images that the sampler can draw from")
    never_drawn: int = Field(description="images whose probability is 0")
    temperature: float | None = Field(None, description="parameter of rare_class")
    min_pixels: int | None = Field(None, description="parameter of rare_class")
    threshold: float | None = Field(None, description="parameter of repeat_factor")


class Stream(ResponseModel):
    """The stream that the weights belong to: what a sampler draws, random crops, or a mixture of datasets."""

    sampler: str | None = Field(description="name of the sampler; null if every image is equally likely")
    crop: list[int] | None = Field(
        None, description="height and width of the random crops; left out for whole images"
    )
    draws: int = Field(description="number of draws that the expected counts refer to")
    datasets: list[StreamDataset] = Field(description="the datasets of the stream")


class Approximation(ResponseModel):
    """What the expected pixels of random crops are computed from."""

    grid: str = Field(description="rows and columns of the tiles whose histograms are known")
    redrawn: float | None = Field(
        None, description="only with `cat_max_ratio`: rejected crops for each crop that is used"
    )


class WeightsResponse(ResponseModel):
    """Class weights and the counts they derive from."""

    model_config = example(
        {
            "dataset": "camvid",
            "version": 3,
            "method": "sqrt_inv_freq",
            "kind": "weights",
            "spec": {
                "method": "sqrt_inv_freq",
                "strength": 1.0,
                "normalize": "mean",
                "absent": "zero",
                "denominator": "counted",
                "ignore_index": [2],
                "num_classes": 3,
                "class_map": "none",
                "unexpected": "report",
                "split": "train",
                "clip": None,
                "multiply": None,
                "recipe": None,
            },
            "split": "train",
            "exact": True,
            "images": 367,
            "failed": 0,
            "pixels": 25000000,
            "ignored_pixels": 1500000,
            "expected_weight": 0.8,
            "classes": [
                {
                    "id": 0,
                    "name": "sky",
                    "pixels": 20000000,
                    "images": 366,
                    "frequency": 0.8,
                    "weight": 0.6666666666666666,
                    "loss_share": 0.6666666666666666,
                },
                {
                    "id": 1,
                    "name": "car",
                    "pixels": 5000000,
                    "images": 301,
                    "frequency": 0.2,
                    "weight": 1.3333333333333333,
                    "loss_share": 0.3333333333333333,
                },
                {
                    "id": 2,
                    "name": "void",
                    "pixels": 1500000,
                    "images": 367,
                    "frequency": 0.0,
                    "weight": 0.0,
                    "loss_share": 0.0,
                    "ignored": True,
                },
            ],
            "weights": [0.6666666666666666, 1.3333333333333333, 0.0],
            "unexpected": [],
            "warnings": [],
            "schema": 1,
        }
    )

    dataset: str = Field(description="name of the dataset; for a mixture, every dataset@version:share")
    version: int | None = Field(description="version number; null for a mixture")
    method: str = Field(description="weighting method")
    kind: Literal["weights", "additive", "pos_weight"] = Field(
        description="how to use the values: class weights that multiply the loss; additive terms for the "
        "logits; pos_weight of a binary loss"
    )
    spec: Spec = Field(description="all parameters of the request, including defaults")
    split: str | None = Field(description="the split that was counted; null for all samples")
    recipe: str | None = Field(None, description="name of the recipe; left out without one")
    beta: float | None = Field(None, description="the value that `beta=auto` resolved to")
    stream: Stream | None = Field(None, description="only with `sampler` or `crop`, or for a mixture")
    exact: bool = Field(
        description="false if the counts are an estimate from some of the images, or those of crops"
    )
    approximation: Approximation | None = Field(None, description="only with `crop`")
    estimate: Estimate | None = Field(None, description="only if some of the images were counted")
    images: int | None = Field(description="images counted; null if unknown")
    failed: int = Field(description="samples that could not be read")
    pixels: Number = Field(description="pixels counted")
    ignored_pixels: Number = Field(description="pixels of ignored ids")
    expected_weight: float | None = Field(
        description="mean weight of a counted pixel; null if `kind` is not weights"
    )
    classes: list[ClassWeight] = Field(description="one entry for each class id, in order")
    weights: list[float] = Field(description="`weights[i]` belongs to class id i; length C")
    unexpected: list[UnexpectedId] = Field(description="ids that do not map to a class")
    warnings: list[ResultWarning] = Field(description="reasons to check the result before using it")
    schema_: int = Field(alias="schema", description="revision of this format")


class SamplerParameter(ResponseModel):
    """A parameter of a sampler."""

    name: str = Field(description="name of the query parameter")
    default: float | str | None = Field(description="default value; null if there is none")
    range: str = Field(description="interval of valid numbers, such as `[0, 1)`, or the valid values")
    description: str = Field(description="effect of the parameter")


class MethodParameter(SamplerParameter):
    """A parameter of a weighting method."""

    required: bool = Field(description="whether the parameter has no default")


class Method(ResponseModel):
    """A weighting method."""

    name: str = Field(description="value of the `method` parameter")
    kind: Literal["weights", "additive", "pos_weight"] = Field(description="how to use the values")
    formula: str = Field(
        description="formula before normalization; n: pixels of the class, N: all pixels, p = n/N, "
        "C: number of classes, I: pixels of the images that contain the class"
    )
    summary: str = Field(description="what the method does, in one sentence")
    parameters: list[MethodParameter] = Field(description="parameters of this method only")
    reference: str = Field(description="publication or program that the formula comes from")
    needs_images: bool = Field(description="whether the method needs image counts")


class MethodList(ResponseModel):
    """Every weighting method."""

    model_config = example(
        {
            "methods": [
                {
                    "name": "enet",
                    "kind": "weights",
                    "formula": "1/ln(c + p)",
                    "summary": "Bounded inverse logarithm of the share of pixels.",
                    "parameters": [
                        {
                            "name": "c",
                            "default": 1.02,
                            "required": False,
                            "range": "[1, ∞)",
                            "description": "a smaller value gives rare classes a larger weight",
                        }
                    ],
                    "reference": "Paszke et al., ENet, 2016",
                    "needs_images": False,
                }
            ]
        }
    )

    methods: list[Method]


class Sampler(ResponseModel):
    """A sampler: how often it draws each image."""

    name: str = Field(description="value of the `sampler` parameter")
    formula: str = Field(description="probability of image i, up to a constant factor")
    summary: str = Field(description="what the sampler does, in one sentence")
    parameters: list[SamplerParameter] = Field(description="parameters of this sampler only")
    reference: str = Field(description="publication or program that the sampler comes from")
    stream: bool = Field(description="whether `GET /weights?sampler=` accepts it")


class SamplerList(ResponseModel):
    """Every sampler."""

    model_config = example(
        {
            "samplers": [
                {
                    "name": "repeat_factor",
                    "formula": "q_i proportional to r_i = max over c in i of max(1, sqrt(threshold/f_c))",
                    "summary": "Draws images that contain a rare class more than once.",
                    "parameters": [
                        {
                            "name": "threshold",
                            "default": 0.001,
                            "range": "(0, 1]",
                            "description": "share of images below which a class counts as rare",
                        }
                    ],
                    "reference": "Gupta et al., LVIS, CVPR 2019",
                    "stream": True,
                }
            ]
        }
    )

    samplers: list[Sampler]


class SamplingClass(ResponseModel):
    """What a sampler derives from one class. The optional fields depend on the sampler."""

    id: int = Field(description="class id")
    name: str = Field(description="class name, or the class id as text if it has no name")
    images: int | None = Field(
        None, description="rare_class: images with at least min_pixels of it; repeat_factor: with any pixel"
    )
    objects: int | None = Field(
        None,
        description="repeat_factor with unit=objects: its objects, or the images that contain it if it is "
        "not divided into objects",
    )
    probability: float | None = Field(None, description="rare_class: probability of choosing the class")
    repeats: float | None = Field(None, description="repeat_factor: repeat factor of the class, at least 1")
    weight: float | None = Field(None, description="image_weights: weight of the class")


class SampleProbability(ResponseModel):
    """How likely one image is."""

    path: str = Field(description="path relative to the source")
    probability: float = Field(description="probability that the next draw is this image")


class Sampling(ResponseModel):
    """A page of image probabilities, and what the sampler derives from each class."""

    model_config = example(
        {
            "dataset": "camvid",
            "version": 3,
            "sampler": "rare_class",
            "spec": {
                "ignore_index": [11],
                "num_classes": 11,
                "class_map": "none",
                "unexpected": "report",
                "split": None,
                "temperature": 0.01,
                "min_pixels": 988,
            },
            "images": 367,
            "failed": 0,
            "epoch": 367.0,
            "classes": [{"id": 10, "name": "bicyclist", "images": 71, "probability": 0.62}],
            "warnings": [],
            "schema": 1,
            "samples": [{"path": "train/0001TP_006690.png", "probability": 0.0027}],
            "next": "train/0001TP_006690.png",
        }
    )

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    sampler: str = Field(description="name of the sampler")
    spec: Spec = Field(description="all parameters of the request, including defaults")
    images: int = Field(description="images that the sampler can draw from")
    failed: int = Field(description="samples that could not be read; they have no probability")
    epoch: float = Field(description="draws after which an average image has been drawn once")
    classes: list[SamplingClass] = Field(description="the counted classes that occur")
    warnings: list[ResultWarning] = Field(description="reasons to check the result before using it")
    schema_: int = Field(alias="schema", description="revision of this format")
    samples: list[SampleProbability] = Field(description="images in path order")
    next: str | None = Field(description="value of `after` for the next page; null on the last page")

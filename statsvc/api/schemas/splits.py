"""Response of `POST /datasets/{name}/splits`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from statsvc.api.schemas.base import ResponseModel, example


class LargestGroup(ResponseModel):
    """The group with the most images."""

    group: str | None = Field(description="value of the group; null for an image without a group")
    images: int = Field(description="number of images")


class DividedGroups(ResponseModel):
    """The groups that were not divided."""

    rule: str = Field(description="rule that assigns images to groups")
    count: int = Field(description="number of groups")
    ungrouped: int = Field(description="images without a group; each is treated as a group of its own")
    largest: LargestGroup


class Part(ResponseModel):
    """One part of a division."""

    name: str = Field(description="name of the part")
    share: float = Field(description="wanted share of the images and of every class")
    images: int = Field(description="images in the part")
    pixels: int = Field(description="counted pixels in the part")
    deviation: float = Field(description="largest deviation of a class in this part")


class WorstShare(ResponseModel):
    """The class and part with the largest deviation."""

    class_: int = Field(alias="class", description="class id")
    name: str = Field(description="class name")
    part: str = Field(description="name of the part")
    deviation: float = Field(description="(share of the class's pixels in the part) / (wanted share) - 1")


class RandomDivisions(ResponseModel):
    """Random divisions of the same images and groups, for comparison."""

    divisions: int = Field(description="number of random divisions")
    deviation: float = Field(description="mean of their worst deviations")
    mean_deviation: float = Field(description="mean over the classes of their deviations")


class Bound(ResponseModel):
    """The worst deviation that every division has because units are not divided."""

    deviation: float = Field(description="no division has a smaller worst deviation")
    exact: bool = Field(description="true if all divisions were compared, so one of them reaches it")


class DividedClass(ResponseModel):
    """How well the parts represent a class."""

    id: int = Field(description="class id")
    name: str = Field(description="class name")
    pixels: int = Field(description="pixels of the class")
    images: int = Field(description="images that contain the class")
    groups: int | None = Field(description="groups that contain the class; null without groups")
    deviation: float = Field(description="largest deviation of its pixels in a part")
    image_deviation: float = Field(description="largest deviation of its images in a part")
    random_deviation: float = Field(description="mean deviation of its pixels in random divisions")
    bound: float = Field(description="deviation of its pixels that no division can avoid")
    shares: list[float] = Field(description="share of its pixels in each part")


class Impossible(ResponseModel):
    """A class that no division can balance."""

    code: Literal["too_few", "too_large"] = Field(
        description="too_few: in fewer images or groups than parts; too_large: a few contain most of it"
    )
    class_: int = Field(alias="class", description="class id")
    name: str = Field(description="class name")
    message: str = Field(description="what is impossible, and why")


class Division(ResponseModel):
    """Parts of a dataset that represent every class, and how well they do."""

    model_config = example(
        {
            "dataset": "camvid",
            "version": 3,
            "split": None,
            "class_map": "none",
            "ignore_index": [11],
            "seed": 0,
            "images": 468,
            "failed": 0,
            "groups": None,
            "parts": [{"name": "fold0", "share": 0.2, "images": 94, "pixels": 15641416, "deviation": 0.0041}],
            "worst": {"class": 3, "name": "road", "part": "fold4", "deviation": -0.0058},
            "mean_deviation": 0.0043,
            "random": {"divisions": 10, "deviation": 0.294, "mean_deviation": 0.128},
            "bound": {"deviation": 0.0, "exact": False},
            "classes": [
                {
                    "id": 10,
                    "name": "bicyclist",
                    "pixels": 569000,
                    "images": 302,
                    "groups": None,
                    "deviation": 0.003,
                    "image_deviation": 0.0099,
                    "random_deviation": 0.2091,
                    "bound": 0.0,
                    "shares": [0.2004, 0.2001, 0.1994, 0.2, 0.2001],
                }
            ],
            "impossible": [],
            "samples": {"fold0": ["train/0001TP_006690.png"]},
            "registered": 4,
            "schema": 2,
        }
    )

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version whose counts were used")
    split: str | None = Field(description="the split that was divided; null for all samples")
    class_map: str = Field(description="name of the class map; `none` for raw ids")
    ignore_index: list[int] = Field(description="ignored ids")
    seed: int = Field(description="seed of the search")
    images: int = Field(description="images that were divided")
    failed: int = Field(description="samples that could not be read; they are in no part")
    groups: DividedGroups | None = Field(description="the groups; null if single images were divided")
    parts: list[Part]
    worst: WorstShare
    mean_deviation: float = Field(description="mean over the classes of their largest deviations")
    random: RandomDivisions
    bound: Bound
    classes: list[DividedClass]
    impossible: list[Impossible] = Field(description="classes that no division can balance")
    samples: dict[str, list[str]] = Field(description="paths in each part; for folds, those to validate on")
    registered: int | None = Field(description="version with the registered splits; null if none were")
    schema_: int = Field(alias="schema", description="revision of this format")


class Group(ResponseModel):
    """One group of samples."""

    group: str = Field(description="value of the group")
    images: int = Field(description="images in the group")
    pixels: int = Field(description="counted pixels in the group")
    shares: dict[str, float] = Field(description="share of the group's pixels by class id")


class GroupedClass(ResponseModel):
    """How a class is spread over the groups."""

    id: int = Field(description="class id")
    name: str = Field(description="class name")
    groups: int = Field(description="groups that contain the class")
    largest_group: str | None = Field(description="group with the most pixels of the class; null if none")
    largest_share: float = Field(description="share of the class's pixels in this group")
    weight_min: float | None = Field(description="smallest weight of the class in a group that contains it")
    weight_max: float | None = Field(description="largest weight of the class in a group that contains it")


class GroupList(ResponseModel):
    """Groups of samples, and the rules that define groups."""

    model_config = example(
        {
            "dataset": "cityscapes",
            "version": 1,
            "by": "city",
            "split": None,
            "rules": {"city": "^([a-z]+)_"},
            "suggested": {},
            "ungrouped": 0,
            "groups": [{"group": "zurich", "images": 122, "pixels": 230000000, "shares": {"0": 0.39}}],
            "classes": [
                {
                    "id": 0,
                    "name": "road",
                    "groups": 18,
                    "largest_group": "hanover",
                    "largest_share": 0.08,
                    "weight_min": 0.11,
                    "weight_max": 0.16,
                }
            ],
            "schema": 2,
        }
    )

    dataset: str = Field(description="name of the dataset")
    version: int = Field(description="version number")
    split: str | None = Field(description="the split that was grouped; null for all samples")
    by: str | None = Field(description="the rule; null if only the rules are listed")
    rules: dict[str, str] = Field(description="group rules of the dataset by name")
    suggested: dict[str, str] = Field(description="without `by`: rules that suit the paths, by name")
    ungrouped: int = Field(description="images to which the rule gives no group")
    groups: list[Group] = Field(description="groups in order of their values")
    classes: list[GroupedClass] = Field(description="classes that occur; weights are of `sqrt_inv_freq`")
    schema_: int = Field(alias="schema", description="revision of this format")

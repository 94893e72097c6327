"""Request bodies that several routes share."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, model_validator

from statsvc.api.http.body_schemas import (
    ClassMapValue,
    ClassName,
    Groups,
    Id,
    Interval,
    NumClasses,
    Splits,
    whole,
)
from statsvc.api.http.query import INT64, MAX_PROBLEMS, MAX_SHOWN
from statsvc.classes import class_maps
from statsvc.classes.class_maps import MAX_CLASSES, ClassMap
from statsvc.common.durations import parse_schedule
from statsvc.common.utf8 import NOT_ENCODABLE, is_encodable, printable
from statsvc.dataset import groups, splits
from statsvc.errors import InvalidParameter, NotFound, nearest

if TYPE_CHECKING:
    from collections.abc import Callable


_SPLIT = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_RAW_ID = re.compile(r"-?(0|[1-9][0-9]{0,18})")


class InvalidBody(Struct, frozen=True):
    """A request body that has already been found invalid, and why."""

    error: InvalidParameter


class RequestBody(BaseModel):
    """A JSON object. Unknown fields and values of another type are rejected, not ignored or converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: Any) -> Any:
        if isinstance(value, InvalidBody):
            raise value.error
        if isinstance(value, dict):
            # JSON can contain a lone surrogate such as "\ud800", which UTF-8 cannot encode.
            surrogates = [
                (printable(name), NOT_ENCODABLE)
                for name, item in value.items()
                if not is_encodable([name, item])
            ]
            if surrogates:
                raise InvalidParameter(*surrogates[:MAX_PROBLEMS])
            known = cls.model_fields
            unknown = [
                (
                    name[:MAX_SHOWN],
                    f"unknown field{nearest(name, known) or '; valid fields: ' + ', '.join(known)}",
                )
                for name in itertools.islice((name for name in value if name not in known), MAX_PROBLEMS)
            ]
            if unknown:
                raise InvalidParameter(*unknown)
        return value


class TriggerBody(RequestBody):
    """Automatic scans of a dataset; null restores the default."""

    every: Interval | None = Field(
        None,
        description="interval of scheduled scans, such as 30s, 10m, 2h or 1d, at most 366d; "
        "null or none: no schedule",
    )
    watch: bool | None = Field(
        None,
        description="scan the source after it has changed and files are stable again; null: false. "
        "An object store is listed instead, every minute or at the interval `every`",
    )

    def triggers(self) -> dict[str, Any]:
        """Return the fields that were sent, as arguments of `statsvc.store.catalog.triggers.change`.

        Raises `InvalidParameter`.
        """
        changes: dict[str, Any] = {}
        if "every" in self.model_fields_set:
            changes["every"] = parse_schedule(self.every)
        if "watch" in self.model_fields_set:
            changes["watch"] = bool(self.watch)
        return changes


class ConfigurationBody(RequestBody):
    """How the counts are interpreted; null restores the default."""

    class_names: list[ClassName] | None = Field(
        None, max_length=MAX_CLASSES, description="names of the class ids 0, 1, …"
    )
    class_map: ClassMapValue | None = Field(
        None,
        description='name of a built-in class map, or {"map": {"7": 0, "8": 1, "9": "ignore"}, "names": '
        '["road"]}; null: raw ids are class ids',
    )
    ignore_index: list[Id] | None = Field(
        None,
        max_length=MAX_CLASSES,
        description="ids after the class map that are not counted; null: 255 and every negative id",
    )
    num_classes: NumClasses | None = Field(
        None,
        description="number of classes; null: infer it from the label maps, as the highest counted id + 1",
    )
    splits: Splits | None = Field(
        None,
        description='split name → list of relative paths, {"folder": "train"} or {"glob": "*_val.png"}; '
        "null: the folders train, val and test",
    )
    groups: Groups | None = Field(
        None,
        description='group rule by name: {"pattern": "^(\\\\w+?)_"}, {"folder": 1} or '
        '{"values": {path: group}}; null: none',
    )

    def changes(self) -> dict[str, Any]:
        """Return the fields that were sent, as changes for `reconfigure.apply_changes`; None for null.

        Raises `InvalidParameter`.
        """
        parsers: dict[str, Callable[[Any], Any]] = {
            "class_names": _class_names,
            "class_map": _class_map,
            "ignore_index": _ignore_index,
            "num_classes": int,
            "splits": _splits,
            "groups": _groups,
        }
        sent = {name: getattr(self, name) for name in parsers if name in self.model_fields_set}
        return {name: None if value is None else parsers[name](value) for name, value in sent.items()}


def _class_names(value: list[str]) -> tuple[str, ...]:
    for class_id, name in enumerate(value):
        if not name.strip():
            raise InvalidParameter(("class_names", f"the name of class {class_id} is empty"))
    return tuple(value)


def _ignore_index(value: list[int]) -> tuple[int, ...]:
    for class_id in value:
        if not INT64[0] <= class_id <= INT64[1]:
            raise InvalidParameter(("ignore_index", f"{class_id} does not fit in 64 bits"))
    return tuple(sorted(set(value)))


def _splits(value: dict[str, Any]) -> dict[str, splits.Split]:
    for name in value:
        if not _SPLIT.fullmatch(name):
            raise InvalidParameter(
                ("splits", f"{name!r} is not a valid split name: use letters, digits, '-', '_' and '.'")
            )
    return splits.from_dict(value)


def _groups(value: dict[str, Any]) -> dict[str, groups.Grouping]:
    def rule(item: Any) -> Any:
        return (
            item | {"folder": whole(item["folder"])} if isinstance(item, dict) and "folder" in item else item
        )

    return groups.from_dict({name: rule(item) for name, item in value.items()})


def _class_map(value: str | dict[str, Any]) -> ClassMap:
    if isinstance(value, str):
        try:
            return class_maps.builtin(value)
        except NotFound as error:
            raise InvalidParameter(("class_map", str(error))) from None
    if "map" not in value:
        return ClassMap.from_dict(value)
    rest = {key: item for key, item in value.items() if key != "map"}
    return ClassMap.from_dict({**rest, "targets": _targets(value["map"])})


def _targets(value: Any) -> list[list[Any]]:
    if not isinstance(value, dict):
        raise InvalidParameter(("class_map", 'map must be an object of raw id → class id, such as {"7": 0}'))
    targets = []
    for raw, target in value.items():
        if not _RAW_ID.fullmatch(raw):
            raise InvalidParameter(("class_map", f"map: the raw id {raw!r} is not an integer"))
        targets.append([int(raw), class_maps.IGNORE if target == "ignore" else whole(target)])
    return targets

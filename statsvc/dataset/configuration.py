"""The configuration of a dataset: how its raw counts are interpreted.

It is stored in every version, so the results of a version never change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from statsvc.classes.class_maps import ClassMap
from statsvc.dataset import groups, splits
from statsvc.dataset.counting_rule import Counting
from statsvc.dataset.selection import Selection
from statsvc.errors import NotFound, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.dataset.groups import Grouping
    from statsvc.dataset.splits import Split


class Configuration(Struct, frozen=True):
    """How the raw counts of a version are interpreted.

    num_classes   number of classes, the length of the weights vector; 0 until the first scan infers it
    class_names   names of the classes 0 … num_classes−1; shorter or empty if unknown
    ignore_index  ids, after the class map, that are not counted; None for the default: 255 and negative
                  ids, except that 255 is a class if ids above it occur
    class_map     maps raw ids to class ids; None if raw ids are class ids
    splits        name → split
    groups        name → rule that assigns samples to groups, such as cities
    counting      how pixels become raw ids; unlike the other fields, fixed when the dataset is registered
    notes         what the first scan read from files of the source, and why it did not use a file: field or
                  file → text for a person
    selection     which files are counted and which are skipped; None if the source was not inspected
    sampled_from  number of samples of the source from which those of the version were drawn, without
                  replacement and each with the same probability; None if every sample was counted
    """

    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    ignore_index: tuple[int, ...] | None = None
    class_map: ClassMap | None = None
    splits: Mapping[str, Split] = field(default_factory=dict)
    groups: Mapping[str, Grouping] = field(default_factory=dict)
    counting: Counting = field(default_factory=Counting)
    notes: Mapping[str, str] = field(default_factory=dict)
    selection: Selection | None = None
    sampled_from: int | None = None

    def name(self, class_id: int) -> str:
        """Return the name of a class, or its id as text if it has no name."""
        if 0 <= class_id < len(self.class_names):
            return self.class_names[class_id]
        return str(class_id)

    def grouping(self, text: str, *, files: bool = True) -> Grouping:
        """Return the rule of this name, or the rule that a text such as `^(\\w+?)_` or `folder:1` defines.

        files  whether the text may name a CSV file to read

        Raises `NotFound` for a name without a rule, and `InvalidParameter` for a malformed rule.
        """
        if text in self.groups:
            return self.groups[text]
        if groups.is_name(text):
            known = ", ".join(sorted(self.groups)) or "none"
            raise NotFound(
                f"there is no group rule {text!r}{nearest(text, self.groups)}; group rules: {known}. Define "
                f"one, for instance {text}=folder:1 or {text}=^(\\w+?)_"
            )
        return groups.read_option(text, files=files)[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` parses."""
        # Left out by default, so that configurations of earlier versions stay as they were written.
        optional: dict[str, Any] = {}
        if counting := self.counting.to_dict():
            optional["counting"] = counting
        if self.groups:
            optional["groups"] = {name: rule.to_dict() for name, rule in self.groups.items()}
        if self.notes:
            optional["notes"] = dict(self.notes)
        if self.selection is not None:
            optional["selection"] = self.selection.to_dict()
        if self.sampled_from is not None:
            optional["sampled_from"] = self.sampled_from
        return {
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "ignore_index": None if self.ignore_index is None else list(self.ignore_index),
            "class_map": None if self.class_map is None else self.class_map.to_dict(),
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
        } | optional

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Configuration:
        """Parse the JSON form that `to_dict` returns."""
        ignore, class_map, selection = value["ignore_index"], value["class_map"], value.get("selection")
        return cls(
            num_classes=value["num_classes"],
            class_names=tuple(value["class_names"]),
            ignore_index=None if ignore is None else tuple(ignore),
            class_map=None if class_map is None else ClassMap.from_dict(class_map),
            splits=splits.from_dict(value["splits"], stored=True),
            groups=groups.from_dict(value.get("groups", {})),
            counting=Counting.from_dict(value.get("counting", {})),
            notes=dict(value.get("notes", {})),
            selection=None if selection is None else Selection.from_dict(selection),
            sampled_from=value.get("sampled_from"),
        )

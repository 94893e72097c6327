"""What the listing of a container returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from statsvc_workers.samples.members import Member


@dataclass(frozen=True, slots=True)
class Contents:
    """The listing of a container.

    members      its samples
    class_names  class names of the ids 0 … n−1; empty where the container has none
    note         what was left out, for a person; "" for nothing
    """

    members: list[Member]
    class_names: tuple[str, ...] = ()
    note: str = ""

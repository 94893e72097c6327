"""What the listing of a container returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.common.sealed import Sealed

if TYPE_CHECKING:
    from statsvc_workers.samples.members import Member


class Contents(Sealed, frozen=True):
    """The listing of a container.

    members      its samples
    class_names  class names of the ids 0 … n−1; empty where the container has none
    note         what was left out, for a person; "" for nothing
    """

    members: list[Member]
    class_names: tuple[str, ...] = ()
    note: str = ""

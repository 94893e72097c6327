"""How samples are counted."""

from __future__ import annotations

from msgspec import Struct, field

from statsvc.dataset.counting_rule import Counting
from statsvc_workers.processes.stalls import STALL_TIMEOUT


class CountOptions(Struct, frozen=True):
    """How samples are counted.

    root           folder or URL that the paths of the samples are relative to
    max_pixels     a larger label map is rejected before it is decoded
    device         where pixels are counted: "cpu", "cuda", or "auto", which uses CUDA only if a device exists
                   and the first batch, counted on both, was faster on it
    counting       the counting rule
    roots          folders and URLs outside which no file is opened, as `restricted` expects them; None for no
                   restriction
    stall_timeout  limits of reading and decoding in seconds, as for `watched`
    """

    root: str
    max_pixels: int
    device: str
    counting: Counting = field(default_factory=Counting)
    roots: tuple[str, ...] | None = None
    stall_timeout: float = STALL_TIMEOUT

"""What counted a row: rows are reused only under the same reader."""

from __future__ import annotations

import json

import xxhash

from statsvc.dataset.counting_rule import Counting
from statsvc_workers.formats import FORMATS, REVISION


def reader_digest(counting: Counting | None = None) -> str:
    """Return the digest of the formats, the counting rule with all it holds, and the decoders' revision."""
    rule = (counting or Counting()).to_dict()
    described = {"formats": sorted(FORMATS), "rule": rule, "revision": REVISION}
    return xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode())

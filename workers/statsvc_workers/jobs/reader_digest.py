"""Reader digest: identifies how a row was counted. Rows are reused only if it is equal."""

from __future__ import annotations

import json

import xxhash

from statsvc.dataset.counting_rule import Counting
from statsvc_workers.formats import FORMATS, REVISION


def reader_digest(counting: Counting | None = None) -> str:
    """Return the digest of the supported formats, the counting rule, and the revision of the decoders."""
    rule = (counting or Counting()).to_dict()
    described = {"formats": sorted(FORMATS), "rule": rule, "revision": REVISION}
    return xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode())

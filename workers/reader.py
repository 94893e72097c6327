"""What counted a row: rows are reused only under the same reader."""

from __future__ import annotations

import json

import xxhash

from workers.labelmaps import FORMATS, REVISION


def reader_digest(rule: str = "pixel value") -> str:
    """Return the digest of the formats, the counting rule and the decoders' revision.

    `rule` says what a raw id is: here always the pixel's value.
    """
    described = {"formats": sorted(FORMATS), "rule": rule, "revision": REVISION}
    return xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode())

"""The revision of the decoders."""

from __future__ import annotations

REVISION = 2
"""Increase this when a change makes any file count differently: rows of older revisions are not reused."""

"""Detect the known layout (`statsvc.dataset.known_layouts`) of a source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from statsvc.dataset.known_layouts import LAYOUTS
from statsvc_workers.sources.patterns import matcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.dataset.known_layouts import Layout

MOST_PATHS = 20_000
"""Paths that are compared with the marks of the layouts."""


_WILDCARDS = re.compile(r"\{[^{}]*\}|\[[^\]]*\]|[*?]+")


def detect_layout(paths: Sequence[str]) -> Layout | None:
    """Return the first layout that a source with these paths has, or None."""
    # Only one path of each form per folder is compared: a source can have a million files.
    forms: dict[tuple[str, str], str] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        forms.setdefault((folder, re.sub(r"\d+", "0", name)[-24:]), path)
    chosen = list(forms.values())
    chosen = chosen[:: max(1, len(chosen) // MOST_PATHS)]
    return next((layout for layout in LAYOUTS if _has(chosen, layout)), None)


def _has(paths: Sequence[str], layout: Layout) -> bool:
    """Whether a source with these paths has this layout."""
    return all(_matches_any(mark, paths) for mark in layout.marks or (layout.pattern,))


def _matches_any(pattern: str, paths: Sequence[str]) -> bool:
    """Whether a path matches; compiles the pattern only if a path has all of its literal text."""
    texts = [] if "(" in pattern or "\\" in pattern else _WILDCARDS.split(pattern)
    possible = [path for path in paths if all(text in f"/{path}" for text in texts)]
    return bool(possible) and any(map(matcher(pattern), possible))

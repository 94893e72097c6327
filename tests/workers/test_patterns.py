"""Patterns that need no glob, compared with the general matcher."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from statsvc_workers.sources import patterns

NAMES = st.text(".ab-_png*\n é", max_size=8)
ENDINGS = st.text(".ab-_pngé0", min_size=1, max_size=5)


@given(ENDINGS, st.lists(NAMES, min_size=1, max_size=3), st.booleans())
def test_the_ending_of_a_name_is_matched_as_the_glob_is(
    ending: str, parts: list[str], matching: bool
) -> None:
    path = "/".join(parts) + (ending if matching else "")
    quick = patterns.matcher("*" + ending)
    assert quick(path) == patterns._general_matcher("*" + ending)(path)


def test_other_patterns_are_globs() -> None:
    for pattern in ("*.[pt]ng", "*.{png,tif}", "*/a.png", "a*.png", "*a*.png", "!(a).png"):
        assert patterns._ENDING.fullmatch(pattern) is None

"""Globs match like regular expressions and wcmatch, in linear time."""

from __future__ import annotations

import random
import re
import time

import pytest
from wcmatch import glob as wcmatch

from statsvc.common.globs import check_groups
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.splits import Split
from statsvc.errors import InvalidParameter, SourceError
from statsvc_workers.sources.patterns import matcher

EXPRESSIONS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]", "[!a]": "[^a]"}


def texts(letters: str, count: int = 20) -> list[str]:
    return ["".join(random.choices(letters, k=random.randint(1, 9))) for _ in range(count)]


def test_a_split_glob_matches_like_its_regular_expression() -> None:
    random.seed(1)
    matching = 0
    for _ in range(400):
        parts = random.choices(["a", "b", "/", "*", "**", "**/", "?", "[ab]", "[!a]"], k=random.randint(3, 9))
        glob = "".join(parts)
        if not glob.strip("/"):
            continue
        split = Split.from_dict("x", {"glob": glob})
        assert split.glob is not None
        found = re.findall(r"\*\*/|\*\*|\[!?\w+\]|.", split.glob)
        expression = re.compile("".join(EXPRESSIONS.get(part, part) for part in found))
        for path in texts("aab/"):
            text = path if "/" in split.glob else path.rpartition("/")[2]
            assert split.contains(path) == (expression.fullmatch(text) is not None), (glob, path)
            matching += split.contains(path)
    assert matching > 500


def test_a_pattern_with_many_wildcards_matches_like_wcmatch() -> None:
    random.seed(2)
    flags = wcmatch.GLOBSTAR | wcmatch.EXTGLOB | wcmatch.BRACE | wcmatch.FORCEUNIX
    matching = 0
    for _ in range(300):
        components = [
            "**"
            if random.random() < 0.2
            else "*".join(random.choices(["a", "b", "?", "[ab]", "{a,bb}"], k=4))
            for _ in range(random.randint(1, 3))
        ]
        pattern = "/".join(components)
        if not pattern.strip("*"):
            continue
        matches = matcher("/" + pattern)
        for path in texts("aabb/"):
            if "//" in path or path.startswith("/") or path.endswith("/"):
                continue  # no path of a sample
            expected = wcmatch.globmatch(path, pattern, flags=flags)
            assert matches(path) == expected, (pattern, path)
            matching += matches(path)
    assert matching > 30


@pytest.mark.parametrize(
    "glob", ["*a" * 12 + "*b.png", "**/" + "*a*/" * 6 + "*b.png", "**/a/**/a/**/a/**/b.png", "*?" * 100 + "b"]
)
def test_no_path_makes_a_glob_slow(glob: str) -> None:
    paths = ["a" * 250 + "0.png", "/".join(["a"] * 1000) + "/0.png"]
    split = Split.from_dict("x", {"glob": glob})
    matches = matcher(glob)
    started = time.process_time()
    for path in paths:
        assert not split.contains(path)
        assert not matches(path)
    assert time.process_time() - started < 5  # a regular expression takes longer than anybody waits


@pytest.mark.parametrize(
    "glob",
    [
        "+(a|aa)b.png",
        "*(a|b).png",
        "!(a|@(b|c)).png",
        "*a*b*!(x).png",
        "?(a)" * 24 + "b.png",
        "@(a|aa)" * 9 + "b.png",
    ],
)
def test_groups_that_take_long_are_refused(glob: str) -> None:
    with pytest.raises(InvalidParameter, match="group"):
        check_groups("pattern", glob)
    with pytest.raises(SourceError, match="group"):
        matcher(glob)


@pytest.mark.parametrize(
    "glob", ["!(*_color|*_instanceIds).png", "val.@(json|x.png)", r"a\+(b).png", "*_!(a|b).{png,npy}"]
)
def test_ordinary_groups_are_accepted(glob: str) -> None:
    matcher(glob)


def test_a_long_glob_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="limit of 1000"):
        Split.from_dict("x", {"glob": "a" * 1001})


def test_a_long_glob_in_the_catalog_of_an_earlier_release_is_kept() -> None:
    """One such split must not make the whole catalog unreadable."""
    configuration = Configuration(splits={"x": Split(glob="a" * 1001)})
    assert Configuration.from_dict(configuration.to_dict()) == configuration

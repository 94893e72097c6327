"""Groups of samples: rules, and expressions that are matched in linear time."""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from statsvc.dataset import groups
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.groups import Grouping
from statsvc.doctor.groups import held_by_one_group
from statsvc.doctor.interpretation import Interpretation
from statsvc.errors import InvalidParameter, NotFound
from support.small_tables import table_of

if TYPE_CHECKING:
    from pathlib import Path

PATTERNS = [
    r"^(\w+?)_",
    r"(\d+)",
    r"_(\d+)_",
    r"(a|ab)(c|bcd)?",
    r"(?:ab)+(b?)",
    r"([ab]{2,4}?)_",
    r"\b(\w+)\.png$",
    r"(?P<n>a+)_",
    r"((a)|b)+_",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_rule_finds_what_re_finds(pattern: str) -> None:
    rng = random.Random(pattern)
    names = ["".join(rng.choice("ab_c1.png") for _ in range(rng.randrange(1, 12))) for _ in range(1000)]
    names += ["ab.png", "c_1.png"]
    found = [re.search(pattern, name) for name in names]
    group = 1 if re.compile(pattern).groups else 0
    expected = [(match.group(group) or None) if match else None for match in found]
    assert Grouping.from_dict("g", {"pattern": pattern}).of(names) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"^(\w+\w+)+!", r"(a|aa)+$", r"(.*)(.*)(.*)(.*)(.*)x$"])
def test_no_expression_needs_more_than_linear_time(pattern: str) -> None:
    start = time.perf_counter()
    assert Grouping.from_dict("g", {"pattern": pattern}).of(["a" * 3000 + "b"]) == [None]
    assert time.perf_counter() - start < 20  # `re` needs years


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", r"missing \)"),
        (r"(?=a)", r"invalid perl operator: \(\?="),
        (r"(a)\1", "invalid escape sequence"),
        ("a{5000}", "invalid repetition size"),
        ("a" * 501, "longer"),
        ("a++", "bad repetition operator"),
    ],
)
def test_an_expression_that_cannot_be_matched_is_rejected_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidParameter, match=reason):
        Grouping.from_dict("g", {"pattern": pattern})


PATHS = ["gtFine/train/zurich/zurich_000_labelIds.png", "ulm_7.png", "x/case_1.nii.gz", "plain.png"]


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ({"pattern": r"^([a-z]+?)_"}, ["zurich", "ulm", "case", None]),
        ({"pattern": r"^([^/]+)/"}, ["gtFine", None, "x", None]),
        ({"folder": 1}, ["gtFine", None, "x", None]),
        ({"folder": -1}, ["zurich", None, "x", None]),
        ({"folder": 3}, ["zurich", None, None, None]),
        ({"values": {"ulm_7.png": "south", "case_1": "p1"}}, [None, "south", "p1", None]),
    ],
)
def test_a_rule_gives_each_path_a_value(rule: dict[str, Any], values: list[str | None]) -> None:
    grouping = Grouping.from_dict("g", rule)
    assert grouping.of(PATHS) == values
    assert Grouping.from_dict("g", grouping.to_dict()) == grouping


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"folder": 0},
        {"folder": "1"},
        {"pattern": "("},
        {"values": {}},
        {"values": {"a": 1}},
        "x",
        {"a": 1},
    ],
)
def test_a_malformed_rule_is_rejected_by_name(rule: Any) -> None:
    with pytest.raises(InvalidParameter, match="mine"):
        groups.from_dict({"mine": rule})


def test_rules_are_written_as_text(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("path,patient\na.png,p1\nb.png,p2\n")
    assert groups.read_option("city=^(\\w+?)_", files=True) == ("city", Grouping(pattern=r"^(\w+?)_"))
    assert groups.read_option("^(\\w+?)_", files=True) == ("group", Grouping(pattern=r"^(\w+?)_"))
    assert groups.read_option("x=folder:-1", files=True) == ("x", Grouping(folder=-1))
    name, grouping = groups.read_option(f"patient={table}", files=True)
    assert (name, grouping.of(["a.png", "b.png", "c.png"])) == ("patient", ["p1", "p2", None])
    # A server reads no file: the text is an expression.
    assert groups.read_option(f"patient={table}", files=False)[1].pattern == str(table)
    table.write_text("a.png\n")
    with pytest.raises(InvalidParameter, match="two columns"):
        groups.read_option(f"patient={table}", files=True)


def test_a_configuration_keeps_rules_and_finds_them_by_name() -> None:
    configuration = Configuration(groups={"city": Grouping(pattern=r"^(\w+?)_")})
    assert Configuration.from_dict(configuration.to_dict()) == configuration
    assert "groups" not in Configuration().to_dict()
    assert configuration.grouping("city") == Grouping(pattern=r"^(\w+?)_")
    assert configuration.grouping("folder:2") == Grouping(folder=2)
    with pytest.raises(NotFound, match=r"no group rule 'citty' \(did you mean 'city'\?\)"):
        configuration.grouping("citty")


@pytest.mark.parametrize(
    ("name", "paths", "groups_of"),
    [
        (
            "city",
            ["zurich/zurich_000000_000019_x.png", "zurich_000001_000019_x.png", "ulm_000000_000019_x.png"],
            2,
        ),
        ("sequence", ["train/0001TP_006690.png", "train/0001TP_006720.png", "val/0006R0_f00930.png"], 2),
        ("drive", ["sequences/00/labels/0.npy", "sequences/00/labels/1.npy", "sequences/08/labels/0.npy"], 2),
        ("clip", ["0002/000001.png", "0002/000002.png", "0014/000001.png"], 2),
        (
            "patient",
            ["patient001_frame01.nii.gz", "patient001_frame12.nii.gz", "patient002_frame01.nii.gz"],
            2,
        ),
    ],
)
def test_natural_groups_are_suggested(name: str, paths: list[str], groups_of: int) -> None:
    suggested = groups.suggest(paths)
    assert list(suggested) == [name]
    assert len(set(suggested[name].of(paths))) == groups_of
    assert groups.suggest([f"{k}.png" for k in range(9)]) == {}


def test_a_class_that_only_one_group_contains_is_a_finding() -> None:
    rows = [{0: 100}, {0: 90, 1: 10}, {0: 50, 1: 50}, {0: 100}]
    rule = {"city": Grouping(pattern=r"^([a-z]+)_")}
    table = table_of(
        rows, ["a_1.png", "b_1.png", "b_2.png", "c_1.png"], groups=rule, class_names=("x", "pole")
    )
    (finding,) = held_by_one_group(table, Interpretation(table))
    assert "pole in b" in finding.saw
    assert (finding.ids, finding.count) == ((1,), 2)
    everywhere = table_of([{0: 1, 1: 1}] * 3, ["a_1.png", "b_1.png", "b_2.png"], groups=rule)
    assert list(held_by_one_group(everywhere, Interpretation(everywhere))) == []

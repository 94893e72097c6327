from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from statsvc.sampling.weights import weights_response
from statsvc.weighting.display import class_table, print_class_table
from statsvc.weighting.parameters import WeightSpec
from support.small_tables import CAMVID_NAMES, TotalsTable, table_of

if TYPE_CHECKING:
    from statsvc.dataset.table import Table

FULL = "█"
EIGHTHS = " ▏▎▍▌▋▊▉"


def printed(body: dict[str, Any], encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    print_class_table(body, file)
    file.flush()
    return raw.getvalue().decode(encoding)


def asked(table: Table, **params: Any) -> dict[str, Any]:
    return weights_response(table, WeightSpec.from_params(params))


def camvid_like() -> dict[str, Any]:
    rng = np.random.default_rng(4)
    rows = [{c: int(rng.integers(1, 10 ** (6 - c // 2))) for c in range(11)} | {255: 9} for _ in range(3)]
    return asked(table_of(rows, class_names=tuple(CAMVID_NAMES), num_classes=13))


def bar_length(line: str) -> float:
    bar = line[len(line.rstrip("█▉▊▋▌▍▎▏")) :]
    return sum(1.0 if sign == FULL else EIGHTHS.index(sign) / 8 for sign in bar)


def test_every_class_has_a_line_with_its_numbers() -> None:
    body = camvid_like()
    lines = printed(body).splitlines()
    for row in body["classes"]:
        (line,) = [text for text in lines if re.match(rf" *{row['id']}  ", text)]
        words = line.split()
        assert words[1] == row["name"]
        assert words[2] == f"{row['pixels']:,}"
        assert words[3] == f"{100 * row['frequency']:.3f}%"
        assert words[4] == str(row["images"])
        assert words[5] == f"{row['weight']:.4f}"


def test_bars_are_proportional_to_weights() -> None:
    body = camvid_like()
    lines = printed(body).splitlines()[3:14]
    lengths = np.array([bar_length(line) for line in lines])
    weights = np.array(body["weights"][:11])
    assert lengths.max() > 15
    # A bar ends on an eighth of a column.
    np.testing.assert_allclose(lengths / lengths.max(), weights / weights.max(), atol=0.13 / lengths.max())


def test_absent_and_ignored_classes_are_marked_and_have_no_bar() -> None:
    body = asked(table_of([{0: 5, 1: 7, 3: 2}], num_classes=4), ignore_index=[1])
    lines = printed(body).splitlines()
    assert lines[4].endswith("ignored")
    assert lines[5].endswith("absent")
    assert lines[6].endswith(FULL)


@pytest.mark.parametrize("classes", [19, 150])
def test_tables_are_at_most_80_columns_wide(classes: int) -> None:
    rng = np.random.default_rng(classes)
    names = tuple(f"a rather long class name, number {c}" for c in range(classes))
    rows = [{c: int(rng.integers(1, 10**9)) for c in range(0, classes, 2)} for _ in range(5)]
    text = printed(
        asked(table_of(rows, class_names=names, num_classes=classes, failed={"a.png": "is empty"}))
    )
    assert max(map(len, text.splitlines())) <= 80
    assert len(re.findall(r"^ *\d+  a rather long", text, re.MULTILINE)) == classes


def test_the_heading_describes_the_counts() -> None:
    body = asked(table_of([{0: 5, 1: 7}], failed={"x.png": "is empty"}), method="inverse_freq")
    assert printed(body).splitlines()[0] == "demo · inverse_freq · 1 image · 1 failed · exact"
    body |= {"version": 3, "split": "train", "exact": False, "failed": 0, "images": 1200}
    heading = printed(body).splitlines()[0]
    assert heading == "demo · version 3 · split train · inverse_freq · 1,200 images · estimated"


def test_warnings_are_printed_in_full_below_the_table() -> None:
    body = asked(table_of([{0: 5, 1: 7}], num_classes=3, failed={"cam/0007.png": "is empty (0 bytes)"}))
    text = " ".join(printed(body).split())
    assert len(body["warnings"]) == 2
    for warning in body["warnings"]:
        assert f"warning: {warning['message']}" in text


def test_a_tiny_share_is_not_shown_as_zero() -> None:
    text = printed(asked(table_of([{0: 10**9, 1: 1}])))
    assert "<0.001%" in text


def test_columns_without_information_are_left_out() -> None:
    with_images = printed(asked(table_of([{0: 5, 1: 7}]))).splitlines()[2]
    without = printed(asked(TotalsTable({0: 5, 1: 7}))).splitlines()[2]
    assert with_images.split() == ["id", "pixels", "share", "images", "weight"]
    assert without.split() == ["id", "pixels", "share", "weight"]


def test_an_estimate_shows_the_interval_of_each_share() -> None:
    rows = [{0: 5 + k % 3, 1: 7} | ({2: 1} if k == 9 else {}) for k in range(120)]
    body = asked(table_of(rows, sampled_from=1000))
    low, high = body["classes"][0]["interval"]
    lines = printed(body).splitlines()
    assert "95 % interval" in lines[2]
    assert f"{100 * low:.3f}–{100 * high:.3f}%" in lines[3]
    assert "not estimated" in lines[5]


def test_values_that_are_not_class_weights_have_their_own_heading() -> None:
    table = table_of([{0: 5, 1: 700}])
    assert "added to logit" in printed(asked(table, method="logit_adjustment"))
    assert "pos_weight" in printed(asked(table, method="pos_weight")).splitlines()[2]


def test_weights_of_any_size_have_four_digits() -> None:
    text = printed(asked(table_of([{0: 10**9, 1: 3}]), method="inverse_freq", normalize="none"))
    assert "1.667e+08" in text
    assert text.splitlines()[3].split()[-1] == "0.5"


def test_output_in_other_encodings_than_utf_8_is_ascii() -> None:
    body = camvid_like()
    body["classes"][2]["name"] = "Müllwagen"
    text = printed(body, "ascii")
    assert text.splitlines()[0] == "demo - sqrt_inv_freq - 3 images - exact"
    assert "M?llwagen" in text
    assert "#####" in text
    assert printed(body, "latin-1").splitlines()[5].split()[1] == "Müllwagen"


def test_class_names_are_not_interpreted_as_markup() -> None:
    body = asked(table_of([{0: 5, 1: 7}], class_names=("[bold]road[/]", ":car:")))
    assert "[bold]road[/]" in printed(body)
    assert ":car:" in printed(body)


def test_a_terminal_shows_colors_and_dims_classes_without_weight() -> None:
    body = asked(table_of([{0: 5, 1: 7}], num_classes=3))
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=100)
    with console.capture() as captured:
        console.print(class_table(body, width=60))
    absent = next(line for line in captured.get().splitlines() if "absent" in line)
    assert "\x1b[2m" in absent
    plain = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= 60


def test_lines_have_no_trailing_spaces() -> None:
    assert not re.search(r" $", printed(camvid_like()), re.MULTILINE)

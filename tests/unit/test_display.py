from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.sampling.weights import weights_response
from statsvc.weighting.display import print_class_table
from statsvc.weighting.parameters import WeightSpec
from support import rich_tables
from support.reference_samplers import OTHER_PIXELS, PIXELS
from support.small_tables import CAMVID_NAMES, TotalsTable, camvid, cityscapes, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    assert lines[0] == "demo · sqrt_inv_freq · 120 images · estimated from 120 of 1,000"
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


def responses() -> Iterator[dict[str, Any]]:
    """Yield responses with every kind of column, heading, state and warning."""
    for method in ("sqrt_inv_freq", "inverse_freq", "logit_adjustment", "pos_weight"):
        yield asked(camvid(), method=method)
        yield (
            asked(cityscapes(), method=method, normalize="none")
            if method == "inverse_freq"
            else camvid_like()
        )
    yield asked(camvid(), strength=0.5, ignore_index=[3, 11])
    names = (
        "road 道路",
        "[bold]x[/] :car:",
        "Müllwagen mit sehr langem Namen",
        "街灯" * 9,
        "c\x1b[2J\n",
        "가",
    )
    wide = table_of([{c: 10 ** (c + 2) for c in range(5)}], class_names=names, num_classes=6)
    yield asked(wide, ignore_index=[1])
    yield asked(wide) | {"dataset": "街/train\x07", "version": 12, "split": "val", "exact": False}
    yield asked(table_of([{0: 5, 1: 7}], num_classes=300, failed={"cam/街.png": "is empty (0 bytes)"}))
    yield asked(TotalsTable({0: 5, 1: 10**15}))
    yield asked(
        table_of([{0: 5 + k % 3, 1: 7} | ({2: 1} if k == 9 else {}) for k in range(120)], sampled_from=999)
    )
    drawn, other = (
        table_of([dict(enumerate(row)) for row in pixels.tolist()], num_classes=4)
        for pixels in (PIXELS, OTHER_PIXELS)
    )
    yield asked(drawn, sampler="rare_class", temperature=0.3, min_pixels=20)
    yield weights_response(((drawn, 0.5), (other, 0.5)), WeightSpec())


@pytest.mark.parametrize(("width", "fitting"), [(60, 5), (70, 12), (80, 14), (97, 16), (110, 16), (200, 16)])
def test_tables_that_fit_are_what_rich_prints(
    width: int, fitting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    compared = 0
    for body in responses():
        expected, needed = rich_tables.class_table(body)
        if needed + 7 > width:  # a bar has at least 6 columns, and "ignored" has 7
            continue
        compared += 1
        shown = min(width, 110)
        monkeypatch.setenv("FORCE_COLOR", "")
        assert printed(body) == rich_tables.rendered(expected, shown)
        monkeypatch.setenv("FORCE_COLOR", "1")
        colored = rich_tables.rendered(expected, shown, styled=True)
        assert rich_tables.seen(printed(body)) == rich_tables.seen(colored)
    assert compared >= fitting


def test_a_narrow_terminal_shows_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    number = re.compile(r"(?<=  )[0-9,.%–e+×-]+(?=  |$)")
    for body in responses():
        monkeypatch.setenv("COLUMNS", "200")
        wide = printed(body).splitlines()
        monkeypatch.setenv("COLUMNS", "30")
        narrow = printed(body).splitlines()
        for row in body["classes"][:20]:
            line, shown = (
                next((line for line in lines if re.match(rf" *{row['id']}  ", line)), "")
                for lines in (wide, narrow)
            )
            assert number.findall(shown) == number.findall(line)
            assert len(number.findall(shown)) >= 2 or not line


def test_lines_have_no_trailing_spaces() -> None:
    assert not re.search(r" $", printed(camvid_like()), re.MULTILINE)

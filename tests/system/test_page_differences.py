"""The page compares versions and splits, by label maps that are counted with NumPy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from support.browser import opened, table, text
from support.commands import serve, statsvc
from support.label_maps import write_png
from support.waiting import wait_for, wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from selenium.webdriver import Chrome

NAMES = ["road", "<b>building</b>", "car", "person", "pole", "sign"]
Counts = dict[str, tuple["NDArray[Any]", "NDArray[Any]"]]
"""Pixels and images of each class, int64 [6] each, by what is compared."""


def count(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return pixels and images of each class of the label maps below a folder."""
    files = folder.rglob("*.png")
    rows = np.array([np.bincount(np.asarray(Image.open(file)).ravel(), minlength=6) for file in files])
    return rows.sum(0), (rows > 0).sum(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("differences")


@pytest.fixture(scope="module")
def counts(folder: Path) -> Counts:
    """Two versions of a dataset with two splits, and what NumPy counts."""
    rng = np.random.default_rng(0)
    labels = folder / "labels"
    for number in range(8):
        split = "val" if number % 4 == 3 else "train"
        write_png(labels / split / f"{number}.png", rng.integers(0, 5, (16, 24), np.uint8))
    (folder / "names.json").write_text(json.dumps(NAMES))
    options = ["--name", "street", "--home", str(folder / "home")]
    wait_until_stable(labels)
    statsvc("scan", labels, *options, "--class-names", folder / "names.json", "--num-classes", "6")
    found = {"1": count(labels)}
    write_png(labels / "train" / "new.png", np.full((16, 24), 5, np.uint8))
    write_png(labels / "train" / "0.png", rng.integers(0, 3, (16, 24), np.uint8))
    wait_until_stable(labels)
    statsvc("scan", labels, *options)
    return found | {"2": count(labels), "2/train": count(labels / "train"), "2/val": count(labels / "val")}


@pytest.fixture(scope="module")
def server(folder: Path, counts: Counts) -> Iterator[str]:
    assert counts
    with serve(folder / "home", "--no-runner") as (url, _):
        yield url


def distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the Jensen–Shannon distance of two histograms by entropies: H(mean) - mean(H), in bits."""

    def entropy(shares: NDArray[Any]) -> float:
        return float(-sum(share * np.log2(share) for share in shares if share))

    p, q = first / first.sum(), second / second.sum()
    return float(np.sqrt(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2))


def number(shown: str) -> float:
    """Parse a number as the page shows it."""
    return float(shown.removesuffix(" %").replace("−", "-").replace(",", ""))


def check_table(browser: Chrome, counts: Counts, before: str, after: str) -> None:
    """Compare the rows of the table, and their order, with the counts."""
    (old, old_images), (new, new_images) = counts[before], counts[after]
    assert number(text(browser, "distance")) == pytest.approx(distance(old, new), rel=5e-3)
    share = np.array([old / old.sum(), new / new.sum()])
    # inverse_freq without normalization is N / (C n), and 0 for a class without pixels.
    weight = np.divide(1, 6 * share, out=np.zeros_like(share), where=share > 0)
    _, *rows = table(browser, "differences")
    assert {row[0] for row in rows} == set(NAMES)
    changes = []
    for name, share_change, shares, pixels, images, weight_change, weights in rows:
        k = NAMES.index(name)
        assert [number(each) for each in shares.split(" → ")] == pytest.approx(100 * share[:, k], rel=5e-3)
        assert [number(each) for each in weights.split(" → ")] == pytest.approx(weight[:, k], rel=5e-4)
        assert (number(pixels), number(images)) == (new[k] - old[k], new_images[k] - old_images[k])
        changes.append(np.inf if share[0, k] == 0 else share[1, k] / share[0, k] - 1)
        for shown, pair in ((share_change, share[:, k]), (weight_change, weight[:, k])):
            if pair[0] == 0:
                assert shown == "new"
            else:
                assert number(shown) == pytest.approx(100 * (pair[1] / pair[0] - 1), rel=5e-3)
    assert np.abs(changes).tolist() == sorted(np.abs(changes), reverse=True)


def weights_before(browser: Chrome) -> list[float]:
    """Return the weights of the first side."""
    return [number(row[6].split(" → ")[0]) for row in table(browser, "differences")[1:]]


def choose(browser: Chrome, side: str, value: str) -> None:
    """Choose what is compared, and wait until the page shows it."""
    before = text(browser, "differences")
    Select(browser.find_element(By.ID, f"differences-{side}")).select_by_value(value)
    wait_for(lambda: text(browser, "differences") != before)


def test_versions_and_splits_are_compared_and_the_link_reproduces_it(
    browser: Chrome, server: str, counts: Counts
) -> None:
    parameters = {"method": "inverse_freq", "normalize": "none"}
    opened(browser, server, **parameters)
    # By default the version that is shown, and the one before it.
    check_table(browser, counts, "1", "2")
    assert browser.find_elements(By.CSS_SELECTOR, "#differences b") == []
    for side, value in (("from", "2/train"), ("to", "2/val")):
        choose(browser, side, value)
    check_table(browser, counts, "2/train", "2/val")
    link = browser.current_url
    assert parse_qs(urlsplit(link).query) == {name: [value] for name, value in parameters.items()} | {
        "dataset": ["street"]
    }
    browser.get("about:blank")
    browser.get(link)
    wait_for(lambda: "Versions" in text(browser, "about"))
    check_table(browser, counts, "2/train", "2/val")
    # Another parameter keeps what is compared.
    Select(browser.find_element(By.ID, "p-normalize")).select_by_value("max")
    wait_for(lambda: max(weights_before(browser), default=0) == 1)
    assert browser.find_element(By.ID, "differences-from").get_property("value") == "2/train"


def test_a_split_of_the_page_is_compared_with_the_same_split_of_the_version_before(
    browser: Chrome, server: str, counts: Counts
) -> None:
    opened(browser, server, split="val", method="inverse_freq", normalize="none")
    for side, value in (("from", "1/val"), ("to", "2/val")):
        assert browser.find_element(By.ID, f"differences-{side}").get_property("value") == value
    # No label map of this split has changed.
    assert "No class differs." in text(browser, "differences")
    assert number(text(browser, "distance")) == 0
    choose(browser, "from", "2")
    check_table(browser, counts, "2", "2/val")


def test_the_reason_is_shown_if_the_server_cannot_compare(browser: Chrome, server: str) -> None:
    opened(browser, server, recipe="keras-log")
    assert "recipe" in text(browser, "differences")


def test_nothing_is_compared_with_a_single_version_without_splits(browser: Chrome, tmp_path: Path) -> None:
    (tmp_path / "counts.json").write_text('{"0": 10, "1": 30}')
    statsvc("import", tmp_path / "counts.json", "--name", "counts", "--home", tmp_path / "home")
    with serve(tmp_path / "home", "--no-runner") as (url, _):
        opened(browser, url)
        assert "Differences" not in text(browser, "about")


def test_the_table_scrolls_in_its_box_on_a_phone(browser: Chrome, server: str) -> None:
    size = browser.get_window_size()
    try:
        browser.set_window_size(500, 900)  # the smallest width that Chromium accepts
        opened(browser, server)
        widths = "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
        needed, available = browser.execute_script(widths)
        assert needed <= available <= 500
        box = browser.find_element(By.CSS_SELECTOR, "#differences .scrolled")
        assert box.get_attribute("tabindex") == "0"  # the keyboard can scroll it
        for side in ("from", "to"):
            assert browser.find_element(By.ID, f"differences-{side}").rect["width"] <= available
    finally:
        browser.set_window_size(size["width"], size["height"])

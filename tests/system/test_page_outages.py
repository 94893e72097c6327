"""The page says what is wrong, and for how long: no catalog, failed scans, unreadable files."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import httpx2
import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from support.browser import opened, table, text
from support.commands import serve, statsvc
from support.label_maps import write_png
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

EVIL = "<img src=x onerror=document.title=1>.png"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A dataset with an unreadable label map, whose source is below `tmp_path / "labels"`."""
    for number in range(3):
        write_png(tmp_path / "labels" / f"{number}.png", np.full((8, 8), number, np.uint8))
    (tmp_path / "labels" / EVIL).write_bytes(b"no image")
    statsvc("scan", tmp_path / "labels", "--name", "street", "--home", tmp_path / "home", code=1)
    return tmp_path / "home"


@pytest.fixture
def server(home: Path) -> Iterator[str]:
    with serve(home, "--no-runner") as (url, _):
        yield url


def test_an_outage_of_the_catalog_is_shown_until_it_ends(browser: Chrome, home: Path, server: str) -> None:
    def rename(old: str, new: str) -> None:
        with sqlite3.connect(home / "catalog.sqlite", timeout=60) as database:
            database.execute(f"ALTER TABLE {old} RENAME TO {new}")
        database.close()

    before = opened(browser, server)
    rename("datasets", "hidden")
    wait_for(lambda: "catalog" in text(browser, "problem"))
    assert table(browser, "classes") == before  # what was counted stays visible
    browser.refresh()
    wait_for(lambda: "catalog" in text(browser, "problem"))
    rename("hidden", "datasets")
    wait_for(lambda: not text(browser, "problem") and table(browser, "classes") == before)


def test_failed_scans_are_shown_with_the_counts_that_may_be_out_of_date(
    browser: Chrome, home: Path, server: str
) -> None:
    opened(browser, server)
    assert not text(browser, "outdated")
    (home.parent / "labels").rename(home.parent / "moved")
    statsvc("scan", "--name", "street", "--home", home, code=1)
    # An open page shows it by itself; a version number never changes, so it has no warning.
    wait_for(lambda: "failed" in text(browser, "outdated"))
    assert text(browser, "outdated") in httpx2.get(f"{server}/weights?dataset=street").headers["warning"]
    opened(browser, server, version="1")
    assert not text(browser, "outdated")
    (home.parent / "moved").rename(home.parent / "labels")
    statsvc("scan", "--name", "street", "--home", home, code=1)
    opened(browser, server)
    wait_for(lambda: not text(browser, "outdated"))


def test_names_of_unreadable_files_are_text(browser: Chrome, server: str) -> None:
    opened(browser, server)
    assert EVIL in text(browser, "about")
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []
    assert browser.title == "street · statsvc"


def test_code_is_copied_without_the_clipboard_of_secure_pages(browser: Chrome, server: str) -> None:
    opened(browser, server)
    # Browsers hide it from pages that come over plain HTTP from another host.
    browser.execute_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    browser.execute_script("document.oncopy = () => { window.copied = getSelection().toString(); }")
    button = browser.find_element(By.CSS_SELECTOR, "#use .copyable button")
    code = browser.find_element(By.CSS_SELECTOR, "#use pre").text
    button.click()
    wait_for(lambda: button.text == "Copied")
    assert browser.execute_script("return window.copied") == code


def test_the_state_of_a_job_disappears_with_its_dataset(browser: Chrome, home: Path) -> None:
    (home.parent / "counts.json").write_text('{"0": 10, "1": 30}')
    statsvc("import", home.parent / "counts.json", "--name", "other", "--home", home)
    with serve(home, "--root", home.parent) as (url, _):
        opened(browser, url, dataset="street")
        browser.find_element(By.ID, "again").click()
        wait_for(lambda: "Scan" in text(browser, "job"))
        Select(browser.find_element(By.ID, "dataset")).select_by_value("other")
        wait_for(lambda: [row[2] for row in table(browser, "classes")[1:]] == ["10", "30"])
        assert not text(browser, "job")

"""Chromium, and what the page of a server shows in it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Iterator[Chrome]:
    from selenium import webdriver  # most tests need none of it
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        "window-size=1280,1600",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def table(browser: Chrome, name: str) -> list[list[str]]:
    """Return the text of the cells of a table, including headings."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].map(r => [...r.cells].map(c => c.innerText))"
    )
    rows: list[list[str]] = browser.execute_script(script, f"#{name} tr")
    return rows


def text(browser: Chrome, name: str) -> str:
    content: str = browser.execute_script("return document.getElementById(arguments[0]).innerText", name)
    return content


def opened(browser: Chrome, server: str, **parameters: str) -> list[list[str]]:
    """Open the page, wait until it is complete, and return the rows of the class table."""
    browser.get(f"{server}/?{urlencode(parameters)}")
    wait_for(lambda: "Versions" in text(browser, "about"))
    return table(browser, "classes")

"""GET / in a browser: the page shows what the API returns."""

from __future__ import annotations

import importlib
import json
import shlex
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from statsvc.dataset.groups import SUGGESTED
from support.browser import opened, table, text
from support.commands import serve, statsvc
from support.label_maps import random_labels, write_folder, write_png
from support.waiting import wait_for, wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from selenium.webdriver import Chrome

EVIL = "<img src=x onerror=document.title=1>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    labels = write_folder(folder / "labels", files=8)
    (labels / "train" / "broken.png").write_bytes(b"not an image")
    wait_until_stable(labels)
    (folder / "names.json").write_text(json.dumps(["road", EVIL, "car", "person", "pole", "sign"]))
    options = [
        "--name",
        "street",
        "--class-names",
        str(folder / "names.json"),
        "--home",
        str(folder / "home"),
    ]
    statsvc("scan", labels, *options, code=1)
    return folder / "home"


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    with serve(home) as (url, _):
        yield url


def fetched(server: str, **parameters: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx2.get(f"{server}/weights", params=parameters).json()
    return answer


def shown(rows: Sequence[Sequence[str]]) -> list[tuple[int, str, int, float, int, float]]:
    """Parse the rows of the class table: id, name, pixels, percent, images, weight."""
    return [
        (
            int(row[0]),
            row[1].split("\n")[0].removesuffix("ignored").removesuffix("absent").strip(),
            int(row[2].replace(",", "")),
            float(row[3].split(" ")[0]),
            int(row[4]),
            float(row[5]),
        )
        for row in rows[1:]
    ]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"method": "effective_num", "beta": "0.99", "split": "train"},
        {"method": "power", "alpha": "1.5", "normalize": "sum", "ignore_index": "0"},
        {"method": "median_freq", "clip": "0.1,2"},
    ],
    ids=["default", "beta", "alpha", "clip"],
)
def test_the_table_shows_the_api_response_for_the_parameters_of_the_link(
    browser: Chrome, server: str, parameters: dict[str, str]
) -> None:
    rows = shown(opened(browser, server, **parameters))
    answer = fetched(server, **parameters)
    assert len(rows) == len(answer["classes"]) == 6
    for (number, name, pixels, percent, images, weight), row in zip(rows, answer["classes"], strict=True):
        assert (number, name, pixels, images) == (row["id"], row["name"], row["pixels"], row["images"])
        assert percent == pytest.approx(100 * row["frequency"], rel=5e-3)
        assert weight == pytest.approx(row["weight"], rel=5e-4)
    for warning in answer["warnings"]:
        assert warning["message"] in text(browser, "warnings")
    # Every parameter of the link is in its form field.
    for name, value in parameters.items():
        assert browser.find_element(By.NAME, name).get_property("value") == value


def copied(browser: Chrome) -> list[str]:
    """Return the code to copy: Python, command line, curl."""
    lines: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('#use pre')].map(p => p.innerText)"
    )
    return lines


@pytest.mark.parametrize(
    "parameters",
    [
        {"method": "effective_num", "beta": "1-1e-3", "unit": "pixels", "split": "train"},
        {"ignore_index": "0,255", "clip": "0.5,2", "multiply": "car:1.5,4:2"},
        {"ignore_index": "-1", "num_classes": "9", "absent": "one"},
    ],
    ids=["beta", "lists", "negative"],
)
def test_the_code_to_copy_returns_the_weights_that_are_shown_for_training(
    browser: Chrome, server: str, parameters: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(browser, server, **parameters)
    # Without a split, a warning advises the training split, which the code then requests.
    advised = "split" not in parameters
    assert ("The code and the downloads use split=train" in text(browser, "use")) is advised
    expected = fetched(server, **{"split": "train", **parameters})["weights"]
    python, command, curl = copied(browser)
    scope: dict[str, Any] = {"statsvc": importlib.import_module("statsvc")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warnings of the response do not matter here
        exec(python, scope)
    assert scope["weights"].tolist() == pytest.approx(expected)
    assert json.loads(statsvc(*shlex.split(command)[1:], "--format", "json").stdout)["weights"] == expected
    assert httpx2.get(shlex.split(curl)[1]).json()["weights"] == expected


def test_methods_are_compared(browser: Chrome, server: str) -> None:
    opened(browser, server, split="train")
    overflow = (
        "const box = document.querySelector('#compare .scrolled'); return box.scrollWidth > box.clientWidth"
    )
    is_cut = bool(browser.execute_script(overflow))
    wait_for(lambda: ("Scroll sideways" in text(browser, "compare")) is is_cut)
    heads, ratios, *rows = table(browser, "compare")
    assert {"sqrt_inv_freq", "median_freq", "effective_num", "uniform"} <= set(heads)
    for column, head in list(enumerate(heads))[2:]:
        method, _, alpha = head.partition(" ")
        expected = fetched(server, split="train", method=method, **({"alpha": alpha} if alpha else {}))[
            "weights"
        ]
        assert [float(row[column]) for row in rows] == pytest.approx(expected, rel=5e-3)
        present = [weight for weight in expected if weight > 0]
        assert float(ratios[column].removesuffix("×")) == pytest.approx(max(present) / min(present), rel=5e-3)


def test_weights_can_be_downloaded(browser: Chrome, server: str, downloads: Path) -> None:
    opened(browser, server, split="train")
    answer = fetched(server, split="train")
    browser.find_element(By.LINK_TEXT, "npy").click()
    file = downloads / f"street-sqrt_inv_freq-v{answer['version']}.npy"
    wait_for(file.exists)
    assert np.load(file).tolist() == answer["weights"]


def test_a_link_can_use_every_notation_of_the_api(browser: Chrome, server: str) -> None:
    browser.get(f"{server}/?dataset=street&ignore=0&ignore_index=255&tau=2&method=logit_adjustment")
    wait_for(lambda: "Versions" in text(browser, "about"))
    assert browser.find_element(By.NAME, "ignore_index").get_property("value") == "255,0"
    weights = [row[5].replace("−", "-") for row in table(browser, "classes")[1:]]
    expected = fetched(server, method="logit_adjustment", tau="2", ignore_index="0,255")["weights"]
    assert [float(weight) for weight in weights] == pytest.approx(expected, rel=5e-4)
    browser.get(f"{server}/?dataset=strete")
    wait_for(lambda: "There is no dataset strete; showing street." in text(browser, "news"))


def test_names_of_files_and_classes_are_never_interpreted_as_html(browser: Chrome, server: str) -> None:
    rows = opened(browser, server)
    assert rows[2][1] == EVIL
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []
    assert "broken.png" in text(browser, "about")


def test_a_choice_changes_the_result_and_the_url_and_the_back_button_restores_them(
    browser: Chrome, server: str
) -> None:
    before = opened(browser, server)
    Select(browser.find_element(By.ID, "p-method")).select_by_value("effective_num")
    beta = wait_for(lambda: browser.find_elements(By.ID, "p-beta"))[0]
    wait_for(lambda: table(browser, "classes") != before)
    beta.send_keys("7\n")
    wait_for(lambda: "out of range" in text(browser, "p-beta-error"))
    assert browser.find_element(By.ID, "p-beta").get_attribute("aria-invalid") == "true"
    assert not browser.find_element(By.ID, "answered").is_displayed()
    assert parse_qs(urlsplit(browser.current_url).query)["beta"] == ["7"]
    browser.back()
    browser.back()
    wait_for(
        lambda: table(browser, "classes") == before and browser.find_element(By.ID, "answered").is_displayed()
    )
    browser.find_element(By.ID, "sort-pixels").click()
    pixels = [row[2] for row in shown(table(browser, "classes"))]
    assert pixels == sorted(pixels, reverse=True)


def test_a_new_scan_shows_the_new_version(browser: Chrome, server: str, home: Path) -> None:
    opened(browser, server)
    before = fetched(server)
    write_png(home.parent / "labels" / "train" / "new.png", random_labels(99))
    browser.find_element(By.ID, "again").click()
    wait_for(lambda: f"version {before['version'] + 1}" in text(browser, "job"))
    after = wait_for(lambda: (now := fetched(server))["version"] > before["version"] and now)
    assert after["images"] == before["images"] + 1
    expected = [row["pixels"] for row in after["classes"]]
    wait_for(lambda: [row[2] for row in shown(table(browser, "classes"))] == expected)


def test_the_page_loads_without_a_token_and_prompts_for_one(browser: Chrome, home: Path) -> None:
    secret = statsvc("token", "create", "--scope", "read", "--home", home).stdout.strip()
    with serve(home, "--no-runner", "--require-token-for-reads") as (url, _):
        browser.get(url)
        field = browser.find_element(By.ID, "token")
        wait_for(field.is_displayed)
        field.send_keys("wrong\n")
        wait_for(lambda: text(browser, "token-problem"))
        field.send_keys(f"{secret}\n")
        wait_for(lambda: "Versions" in text(browser, "about"))
        expected = httpx2.get(f"{url}/weights", headers={"Authorization": f"Bearer {secret}"}).json()
        assert [row[2] for row in shown(table(browser, "classes"))] == [
            row["pixels"] for row in expected["classes"]
        ]


def test_the_page_recovers_after_a_server_restart(browser: Chrome, home: Path) -> None:
    with serve(home, "--no-runner") as (url, _):
        before = opened(browser, url)
    wait_for(lambda: "cannot be reached" in text(browser, "problem"))
    with serve(home, "--no-runner", port=urlsplit(url).port):
        wait_for(lambda: not text(browser, "problem") and table(browser, "classes") == before)


def test_heat_maps_show_the_shares_of_the_api(
    browser: Chrome, home: Path, server: str, tmp_path: Path
) -> None:
    opened(browser, server)
    assert browser.execute_script("return document.getElementById('positions').hidden")  # no grid
    labels = tmp_path / "labels"
    for number in range(3):
        image = np.zeros((24, 32), np.uint8)
        image[12:], image[18:, 8 * number : 8 * number + 8] = 1, 2
        write_png(labels / f"{number}.png", image)
    wait_until_stable(labels)
    statsvc("scan", labels, "--name", "tiled", "--grid", "4x4", "--home", tmp_path / "home")
    with serve(tmp_path / "home", "--no-runner") as (url, _):
        opened(browser, url)
        expected = httpx2.get(f"{url}/datasets/tiled/heatmap").json()["classes"]
        assert len(expected) == 3
        script = (
            "return [...document.querySelectorAll('#maps canvas')].map(c => [c.dataset.id, "
            "[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]])"
        )
        drawn = browser.execute_script(script)
        assert [int(class_id) for class_id, _ in drawn] == [row["id"] for row in expected]
        hues = set()
        for (_, pixels), row in zip(drawn, expected, strict=True):
            rgba = np.array(pixels).reshape(4, 4, 4)
            shares = np.array(row["share"])
            assert rgba[..., 3] / 255 == pytest.approx(shares / shares.max(), abs=0.01)
            hues.add(tuple(rgba[np.unravel_index(shares.argmax(), shares.shape)][:3].tolist()))
        assert len(hues) == 3
        captions = [figure.text for figure in browser.find_elements(By.CSS_SELECTOR, "#maps figcaption")]
        assert captions[2].split() == ["2", "≤", "33.3", "%"]


def test_a_server_without_datasets_shows_how_to_scan_one(browser: Chrome, tmp_path: Path) -> None:
    with serve(tmp_path / "home", "--no-runner") as (url, _):
        browser.get(url)
        wait_for(lambda: "statsvc scan" in text(browser, "start"))
        (tmp_path / "counts.json").write_text('{"0": 10, "1": 30}')
        statsvc("import", tmp_path / "counts.json", "--name", "counts", "--home", tmp_path / "home")
        wait_for(lambda: [row[2] for row in table(browser, "classes")[1:]] == ["10", "30"])
        statsvc("datasets", "counts", "--delete", "--home", tmp_path / "home")
        wait_for(lambda: "statsvc scan" in text(browser, "start"))


def test_objects_and_groups_are_shown(browser: Chrome, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        ids = np.full((40, 60), 7, np.uint16)
        for person in range(number + 1):
            ids[person, : int(rng.integers(3, 50))] = 24000 + person
        city = "ulm" if number < 4 else "aachen"
        write_png(tmp_path / "labels" / f"{city}_00000{number}_000019_ids.png", ids)
    home = tmp_path / "home"
    statsvc("scan", tmp_path / "labels", "--name", "cities", "--rule", "id // 1000", "--home", home)
    with serve(home) as (url, _):
        opened(browser, url, dataset="cities")
        rows = table(browser, "about")
        histogram = httpx2.get(f"{url}/datasets/cities/histogram").json()["classes"]
        objects = next(row["objects"] for row in histogram if row["id"] == 24)
        median = f"{objects['median']:.2f}" if objects["median"] < 100 else f"{objects['median']:.1f}"
        assert ["24", "21", str(objects["smallest"]), median, "100 %", "100 %"] in rows
        # A group: its images, and their share of all images and of all pixels.
        shares = {row[0]: row[1:4] for row in rows if row and row[0] in ("ulm", "aachen")}
        assert shares == {"ulm": ["4", "66.7 %", "66.7 %"], "aachen": ["2", "33.3 %", "33.3 %"]}
        assert "city (suggested)" in text(browser, "about")
        answer = httpx2.get(f"{url}/datasets/cities/groups", params={"by": SUGGESTED["city"]}).json()
        spread = {row["id"]: row for row in answer["classes"]}[24]
        assert spread["largest_group"] == "aachen"
        weights = [f"{spread[name]:.3f}" for name in ("weight_min", "weight_max")]
        assert ["24", "2", "aachen", weights] in [[*row[:3], row[4:6]] for row in rows if len(row) == 6]


def test_the_page_contacts_no_other_server_and_logs_no_error(browser: Chrome, server: str) -> None:
    browser.get("about:blank")  # stops the polling of earlier pages
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    browser.get_log("performance")  # type: ignore[no-untyped-call]
    opened(browser, server)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    urls = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert f"{server}/page/page.js" in urls
    assert {urlsplit(url).netloc for url in urls} == {urlsplit(server).netloc}


def test_programs_get_json_and_browsers_get_the_page(server: str) -> None:
    for accept, kind in (
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"),
    ):
        response = httpx2.get(server, headers={"Accept": accept})
        assert (response.status_code, response.headers["content-type"]) == (200, kind)
        assert response.headers["vary"] == "Accept"
        again = {"Accept": accept, "If-None-Match": response.headers["etag"]}
        assert httpx2.get(server, headers=again).status_code == 304
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for missing in ("nothing.js", "..%2f..%2fapp.py", "../index.html"):
        response = httpx2.get(f"{server}/page/{missing}")
        assert (response.status_code, response.json()["type"]) == (404, "/problems/not-found")

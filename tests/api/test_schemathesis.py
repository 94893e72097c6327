"""Schemathesis sends requests that it derives from /openapi.json to real servers, and finds nothing.

A request that conforms to the document is only refused because of what it cannot say: its values contradict
each other, or the dataset, or the folders of the server. A request that does not conform is refused.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from statsvc.store import home as homes
from statsvc.store.catalog import tokens
from statsvc.store.catalog.catalog import Catalog
from support.publishing import label_maps, publish
from support.servers import serving

if TYPE_CHECKING:
    from statsvc.store.home import Home

pytest.importorskip("schemathesis")

HOOKS = Path(__file__).parents[1] / "support" / "schemathesis_hooks.py"
REFUSALS = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "429"]
CONFIGURATION = f"""
hooks = "{HOOKS}"

# 413 is a refusal, too; 422 of a valid request is judged by a check of our own.
[checks]
negative_data_rejection.expected-statuses = {REFUSALS}
positive_data_acceptance.expected-statuses = ["2xx", "304", "401", "403", "404", "409", "422", "429"]
"""
ALL = ("examples", "coverage", "fuzzing", "stateful")


def run_schemathesis(
    folder: Path,
    url: str,
    phases: tuple[str, ...],
    examples: int,
    secret: str = "",
    *,
    send_token: bool = True,
) -> int:
    """Run all checks, and fail if they find anything. Returns the number of requests.

    secret  token that the document, and with `send_token` every request, is sent with
    """
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    document = folder / "openapi.json"
    document.write_bytes(httpx2.get(f"{url}/openapi.json", headers=headers).raise_for_status().content)
    configuration = folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--no-color",
        "--config-file",
        str(configuration),
        "run",
    ]
    settings = [
        "--checks",
        "all",
        "--phases",
        ",".join(phases),
        "--max-examples",
        str(examples),
        "--seed",
        "1",
    ]
    token = ["--header", f"Authorization: Bearer {secret}"] if secret and send_token else []
    process = subprocess.run(
        [*command, str(document), "--url", url, *settings, "--no-shrink", "--continue-on-failure", *token],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    match = re.search(r"([0-9]+) generated, \1 passed", process.stdout)
    assert match is not None, process.stdout
    return int(match[1])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The only root of the server, an empty folder."""
    folder = tmp_path / "labels"
    folder.mkdir()
    return folder


@pytest.fixture
def camvid(tmp_path: Path, source: Path) -> Home:
    """A home with two datasets; the examples of the document name `camvid`."""
    home = homes.resolve(str(tmp_path / "home"))
    for name in ("camvid", "street"):
        publish(home, name, label_maps(), num_classes=4, source=str(source))
    return home


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing_in_reads_and_writes(camvid: Home, source: Path, tmp_path: Path) -> None:
    with serving(camvid, [source]) as url:
        assert run_schemathesis(tmp_path, url, ALL, 3) > 3000


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing_where_tokens_are_required(
    camvid: Home, source: Path, tmp_path: Path
) -> None:
    catalog = Catalog.open(camvid.database)
    _, secret = tokens.create(catalog, "admin", "fuzz")
    catalog.close()
    with serving(camvid, [source], reads_need_token=True) as url:
        phases = ("examples", "fuzzing")
        assert run_schemathesis(tmp_path, url, phases, 2, secret) > 100
        assert run_schemathesis(tmp_path, url, phases, 1, secret, send_token=False) > 50

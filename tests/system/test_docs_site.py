"""The documentation site builds without warnings and loads nothing from another server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


def test_the_site_loads_nothing_from_another_server(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    loaded = re.compile(
        r'<(?:script|img|iframe|source)[^>]* src="(https?:[^"]+)"|<link[^>]* href="(https?:[^"]+)"'
    )
    for page in pages:
        assert not loaded.findall(page.read_text()), page


def test_the_python_reference_documents_every_public_name(site: Path) -> None:
    import statsvc
    from statsvc import integrations, losses, samplers

    page = (site / "reference" / "python" / "index.html").read_text()
    documented = set(re.findall(r'id="([\w.]+)"', page))
    errors = {
        name
        for name in statsvc.__all__
        if getattr(getattr(statsvc, name), "__module__", "") == "statsvc.errors"
    }
    public = {f"statsvc.{name}" for name in statsvc.__all__ if name not in errors | {"__version__"}}
    public |= {f"statsvc.errors.{name}" for name in errors}
    for module in (samplers, losses, integrations):
        public |= {f"{module.__name__}.{name}" for name in module.__all__}
    assert public <= documented


def test_the_command_line_page_shows_the_help_of_every_command(site: Path) -> None:
    from statsvc.cli import cli

    page = (site / "reference" / "command-line" / "index.html").read_text()
    for name in cli.commands:
        assert f'id="statsvc-{name}"' in page

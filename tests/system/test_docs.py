"""The documentation agrees with the code: tables, commands, options, links and the glossary."""

from __future__ import annotations

import importlib
import re
import shlex
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from statsvc.cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TOP_LEVEL = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
ALL_PAGES = [*TOP_LEVEL, *PAGES]

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
EXAMPLE_FILES = {"train.py", "class_weights.py"}
"""Scripts of the reader in examples; they are not part of the repository."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def command_lines(page: Path) -> Iterator[str]:
    """Yield the lines of shell blocks of a page, without prompts, with continued lines joined."""
    for language, block in FENCE.findall(page.read_text()):
        if language in ("", "console", "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                yield line.strip().removeprefix("$ ")


@cache
def statsvc_commands() -> list[tuple[str, list[str]]]:
    """Return (page, words after `statsvc`) of every command in the code blocks of all pages."""
    commands = []
    for page in ALL_PAGES:
        for line in command_lines(page):
            words = shlex.split(line.replace("…", "X"), comments=True) if line.count("'") % 2 == 0 else []
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words[:1] == ["statsvc"] and len(words) > 1:
                commands.append((name_of(page), words[1:]))
    return commands


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "glossary.md"], ids=name_of)
def test_every_page_links_to_the_glossary(page: Path) -> None:
    targets = {(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(page))}
    assert DOCS / "glossary.md" in targets


def test_every_statsvc_command_in_the_documentation_exists_with_its_options() -> None:
    commands = statsvc_commands()
    assert len(commands) > 40
    for page, words in commands:
        context = click.Context(cli)
        command: click.Command = cli
        position = 0
        while isinstance(command, click.Group):
            while words[position].startswith("-"):  # options of the group, such as -v
                position += 1
            subcommand = command.get_command(context, words[position])
            assert subcommand is not None, (page, words)
            command = subcommand
            position += 1
        known = {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word.partition("=")[0] for word in words[position:] if word.startswith("-") and len(word) > 1}
        assert used - {"--help"} <= known, (page, words)


def test_the_command_line_page_lists_exactly_the_commands() -> None:
    page = (DOCS / "reference" / "command-line.md").read_text()
    assert set(re.findall(r"^\| `statsvc (\w+)` \|", page, re.MULTILINE)) == set(cli.commands)


def test_the_command_line_page_lists_every_environment_variable() -> None:
    source = "".join(file.read_text() for file in (ROOT / "statsvc").rglob("*.py"))
    used = set(re.findall(r"\bSTATSVC_[A-Z]+\b", source))
    page = (DOCS / "reference" / "command-line.md").read_text()
    assert used == set(re.findall(r"`(STATSVC_[A-Z]+)`", page))


def test_every_make_target_and_script_in_the_documentation_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ALL_PAGES:
        text = page.read_text()
        commands = [*command_lines(page), *re.findall(r"`([^`\n]+)`", prose(page))]
        used = {match[1] for command in commands if (match := re.match(r"make ([a-z-]+)", command))}
        assert used <= targets, page
        for script in re.findall(r"\bpython3? ((?:[\w-]+/)*[\w-]+\.py)", text):
            assert script in EXAMPLE_FILES or (ROOT / script).exists(), (page, script)


def test_every_file_of_the_repository_that_the_documentation_names_exists() -> None:
    roots = "statsvc|workers|statsvc_workers|tests|benchmarks|scripts|examples|deploy|docs"
    for page in ALL_PAGES:
        for path in re.findall(rf"`((?:{roots})/[\w./-]+)`", page.read_text()):
            assert (ROOT / path).exists() or (ROOT / "workers" / path).exists(), (page, path)


def test_the_api_page_lists_exactly_the_endpoints(tmp_path: Path) -> None:
    from statsvc.api.app import build_app
    from statsvc.store import home

    paths = build_app(home.resolve(str(tmp_path / "home"))).openapi()["paths"]
    endpoints = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    listed = set()
    for row in re.findall(
        r"^\| (`(?:GET|PUT|POST|PATCH|DELETE).*?) \|",
        (DOCS / "reference" / "http-api.md").read_text(),
        re.MULTILINE,
    ):
        path = ""
        for cell in reversed(re.findall(r"`([^`]+)`", row)):  # `PUT`, `DELETE /path` share the path
            method, _, own_path = cell.partition(" ")
            path = own_path or path
            listed.add(f"{method} {path}")
    assert listed == endpoints


def codes(page: str) -> set[str]:
    """Return what the first column of the tables of a reference page has in code font."""
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / page).read_text(), re.MULTILINE)
    return {code for row in rows for code in re.findall(r"`([^`]+)`", row)}


def test_every_warning_is_described() -> None:
    files = ("weighting/weight_warnings.py", "sampling/draw_warnings.py", "sampling/weights.py")
    source = "".join((ROOT / "statsvc" / file).read_text() for file in files)
    found = set(re.findall(r'yield \(\s*"(\w+)",', source))
    found |= {f"effective_num_{kind}" for kind in re.findall(r'return "(\w+)", ', source)}
    assert len(found) > 20
    assert found <= codes("reference/weights.md")


def test_every_finding_is_described() -> None:
    source = "".join(file.read_text() for file in (ROOT / "statsvc" / "doctor").glob("*.py"))
    found = set(re.findall(r'Finding\(\s*"(\w+)",', source))
    assert len(found) > 20
    assert found <= codes("how-to/check-a-dataset.md")


def test_every_problem_type_is_described() -> None:
    from statsvc.api.http import problems

    found = {kind.name for kind in vars(problems).values() if isinstance(kind, problems.ProblemType)}
    assert found <= codes("reference/http-api.md")


def test_every_layout_and_extension_is_described() -> None:
    from statsvc.dataset.known_layouts import LAYOUTS
    from statsvc_workers.formats import FORMATS

    described = codes("reference/formats.md")
    assert {layout.name for layout in LAYOUTS} <= described
    assert set(FORMATS) <= described


def test_the_tables_of_methods_and_recipes_are_those_that_the_code_prints() -> None:
    command = [sys.executable, "scripts/methods_table.py"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = (DOCS / "reference" / "weights.md").read_text()
    methods, recipes = printed.strip().split("\n\n")
    assert methods in page
    assert recipes in page


def test_the_table_of_arrays_names_every_array() -> None:
    from statsvc.store.versions.arrays import CLASS_ARRAYS, SAMPLE_ARRAYS

    page = (DOCS / "explanation" / "architecture.md").read_text()
    for name in ("counts", *SAMPLE_ARRAYS, *CLASS_ARRAYS):
        assert f"`{name}`" in page


def test_the_tables_of_the_experiment_follow_from_the_stored_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    runs, report = map(importlib.import_module, ("training_runs", "training_report"))

    page = (DOCS / "explanation" / "training-experiment.md").read_text()
    stored = runs.read()
    assert report.insert(page, report.report(stored)) == page
    readme = (ROOT / "README.md").read_text()
    assert report.insert(readme, {"experiment": report.readme(report.Results(stored))}) == readme
    # Independently of the report: mean and spread over seeds of one cell, from the stored lines.
    names = [row["name"] for row in stored["classes"]]
    plain = [
        line["iou"][names.index("bicyclist")]
        for line in stored["runs"]
        if [line[name] for name in ("method", "dice", "sampler", "seen", "lr")]
        == ["uniform", 0, None, "images", runs.LR]
        and line["seed"] in report.Results(stored).seeds(runs.WHOLE.values())
    ]
    row = next(line for line in page.splitlines() if line.startswith("| bicyclist |"))
    cell = row.split("|")[3].split("±")
    assert float(cell[0]) == round(100 * statistics.mean(plain), 1)
    if len(plain) > 1:
        assert float(cell[1]) == round(100 * statistics.stdev(plain), 1)


def test_every_test_that_the_threat_model_names_exists() -> None:
    page = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 30
    assert named <= set(re.findall(r"def (test_\w+)\(", tests))

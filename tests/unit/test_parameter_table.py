"""One entry in the parameter table is enough: parsing, command line, OpenAPI and docs follow from it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import statsvc
from statsvc.weighting.parameters import PARAMETERS

ENTRY = """\
    sharpness: float | None = parameter_field(
        "How sharp the weights are",
        Number(0, 1, high_inclusive=True),
        default=0.5,
        method="inverse_freq",
        comparable=True,
    )
"""
"""A parameter that does not exist, as one field of `WeightSpec`."""

REPORT = """
import json
from click.testing import CliRunner
from fastapi import FastAPI
from statsvc import WeightSpec
from statsvc.api.routes import weights
from statsvc.cli.compare import compare
from statsvc.cli.weights import weights as command
from statsvc.errors import InvalidParameter
from statsvc.weighting.reference import describe_methods

app = FastAPI()
app.include_router(weights.router)
problems = []
for params in ({"method": "inverse_freq", "sharpness": "2"}, {"sharpness": "1"}, {"sharpnes": "1"}):
    try:
        WeightSpec.from_params(params)
    except InvalidParameter as problem:
        problems.append(str(problem))
print(json.dumps({
    "parsed": WeightSpec.from_params({"method": "inverse_freq", "sharpness": "0.25"}).to_dict()["sharpness"],
    "default": WeightSpec(method="inverse_freq").to_dict()["sharpness"],
    "other method": "sharpness" in WeightSpec().to_dict(),
    "problems": problems,
    "help": CliRunner().invoke(command, ["--help"], terminal_width=200).output,
    "compare": CliRunner().invoke(compare, ["--help"], terminal_width=200).output,
    "openapi": app.openapi()["paths"]["/weights"]["get"]["parameters"],
    "response": app.openapi()["components"]["schemas"]["Spec"]["properties"]["sharpness"],
    "methods": describe_methods(),
}))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Return what a copy of the package with one more entry reports."""
    folder = tmp_path_factory.mktemp("package")
    package = folder / "statsvc"
    shutil.copytree(Path(statsvc.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    table = package / "weighting" / "parameters.py"
    head, marker, tail = table.read_text(encoding="utf-8").partition("    @classmethod\n    def from_params")
    table.write_text(head.rstrip() + "\n" + ENTRY + "\n" + marker + tail, encoding="utf-8")
    script = f"import sys; sys.path.insert(0, {str(folder)!r})\n{REPORT}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_a_new_entry_is_parsed_checked_and_part_of_the_canonical_form(report: dict[str, object]) -> None:
    assert (report["parsed"], report["default"], report["other method"]) == (0.25, 0.5, False)
    assert report["problems"] == [
        "sharpness: 2 is out of range; use a number in [0, 1]",
        "sharpness: sharpness belongs to method=inverse_freq, not to sqrt_inv_freq; leave it out",
        "sharpnes: unknown parameter (did you mean 'sharpness'?)",
    ]


def test_a_new_entry_is_an_option_of_the_commands(report: dict[str, object]) -> None:
    for command in ("help", "compare"):
        lines = " ".join(str(report[command]).split())
        assert (
            "--sharpness NUMBER How sharp the weights are. [method=inverse_freq; range: [0, 1]; default: 0.5]"
            in lines
        ), lines


def test_a_new_entry_is_documented_in_openapi(report: dict[str, object]) -> None:
    parameters = report["openapi"]
    assert isinstance(parameters, list)
    assert {
        "name": "sharpness",
        "in": "query",
        "required": False,
        "description": "How sharp the weights are. Only with method=inverse_freq. Default: 0.5.",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
    } in parameters


def test_a_new_entry_is_documented_in_the_response(report: dict[str, object]) -> None:
    assert report["response"] == {
        "anyOf": [{"type": "number"}, {"type": "null"}],
        "description": "How sharp the weights are. Only with method=inverse_freq.",
    }


def test_a_new_entry_is_described_with_its_method(report: dict[str, object]) -> None:
    methods = report["methods"]
    assert isinstance(methods, list)
    (parameters,) = (method["parameters"] for method in methods if method["name"] == "inverse_freq")
    assert [parameter["name"] for parameter in parameters] == ["sharpness"]


def test_every_option_has_help_with_a_complete_sentence() -> None:
    for name, parameter in PARAMETERS.items():
        assert parameter.description[0].isupper() or parameter.description[0].isdigit(), name
        assert not parameter.description.endswith("."), name

"""A client that a common generator makes from /openapi.json: it type-checks and fetches weights."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import httpx2
import pytest

from statsvc.store import home as homes
from support.publishing import label_maps, publish
from support.servers import serving

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys

from generated.api.weights import get_weights
from generated.client import Client
from generated.models.get_weights_method import GetWeightsMethod
from generated.models.problem import Problem
from generated.models.weights_response import WeightsResponse

client = Client(base_url=sys.argv[1])
method = GetWeightsMethod.MEDIAN_FREQ
weights = get_weights.sync(client=client, dataset="street", method=method, ignore_index="0")
assert isinstance(weights, WeightsResponse), weights
values: list[float] = weights.weights
names: list[str] = [row.name for row in weights.classes]
print(weights.dataset, weights.version, *names, *values)

rejected = get_weights.sync(client=client, split="holdout")
assert isinstance(rejected, Problem), rejected
status: int = rejected.status
print(status, rejected.type_)
"""

# httpx and attrs, which the generated code imports, come with the generator.
pytest.importorskip("openapi_python_client")


def run(*command: str | Path, cwd: Path) -> str:
    process = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=240
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.timeout(600)
def test_a_generated_client_type_checks_and_fetches_weights(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    (tmp_path / "fetch.py").write_text(PROGRAM)
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")  # generated code need not be formatted
    with serving(home) as url:
        (tmp_path / "openapi.json").write_bytes(httpx2.get(f"{url}/openapi.json").content)
        options = ["--path", "openapi.json", "--output-path", "generated", "--config", "config.yaml"]
        run(
            "openapi_python_client", "generate", *options, "--meta", "none", "--fail-on-warning", cwd=tmp_path
        )
        run("mypy", "--python-version", "3.11", "fetch.py", "generated", cwd=tmp_path)
        run_program = [sys.executable, "fetch.py", url]
        output = subprocess.run(run_program, cwd=tmp_path, capture_output=True, text=True)
        expected = httpx2.get(f"{url}/weights?dataset=street&method=median_freq&ignore_index=0").json()
    assert output.returncode == 0, output.stderr
    weights, problem = output.stdout.splitlines()
    assert weights.split() == ["street", "1", "0", "1", "2", "3", *map(str, expected["weights"])]
    assert problem == "404 /problems/not-found"

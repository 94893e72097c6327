"""The examples run, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from test_client import Reply, serving

import statsvc
from statsvc.demo import CLASS_NAMES, make_demo

ROOT = Path(__file__).parents[1]


def test_the_training_example_trains_with_the_weights_of_the_server(tmp_path: Path) -> None:
    folder = make_demo(tmp_path / "labels", images=10, size=(64, 48))
    table = statsvc.scan(folder, class_names=CLASS_NAMES, num_classes=12)

    def reply(path: str, _: dict[str, str]) -> Reply:
        return Reply(body=table.weights(**dict(parse_qsl(urlsplit(path).query))).to_dict())

    with serving(reply) as server:
        command = [sys.executable, "examples/train.py", server.url, str(folder), "--epochs", "1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "split=train" in server.asked[0][0]
    expected = table.weights(split="train", ignore_index=255)
    shown = [line.split()[-3] for line in done.stdout.splitlines() if " weight " in line and "recall" in line]
    assert shown == [f"{weight:.4f}" for weight in expected.to_list()]

"""docs/how-to/train-with-class-weights.md: its examples run, and it lists every setting."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import statsvc
from statsvc.client.settings import TIMEOUT
from statsvc.dataset.splits import detect
from statsvc.store import home as homes
from support.publishing import label_maps, publish
from support.servers import serving

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "train-with-class-weights.md").read_text()
CLASSES = ("road", "person", "pole", "sky")


def test_the_examples_run_in_the_order_of_the_page_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    maps = label_maps()
    publish(home, "street", maps, num_classes=4, class_names=CLASSES, splits=detect(maps))
    publish(home, "defects", label_maps(classes=2), num_classes=2)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 8
    names = {"torch": torch, "os": os, "CLASSES": CLASSES, "device": "cpu", "model": torch.nn.Linear(2, 4)}
    names["train_one_epoch"] = lambda *_: None
    with serving(home) as url:
        for _ in range(2):  # the second time it resumes
            for block in blocks:
                exec(block.replace("http://stats:8000", url), names)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)["class_weights"]
    assert statsvc.ClassWeights.from_dict(saved).dataset == "street"


def test_the_page_names_every_setting_and_its_default() -> None:
    source = "".join(file.read_text() for file in (ROOT / "statsvc" / "client").glob("*.py"))
    settings = set(re.findall(r'environ\.get\("(STATSVC_\w+)"', source))
    assert settings == set(re.findall(r"^\| `(STATSVC_\w+)` \|", PAGE, re.MULTILINE))
    assert f"| `{TIMEOUT:g}` |" in PAGE

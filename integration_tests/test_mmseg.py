"""The config fragment with MMEngine's real Config, and its loss in MMSegmentation's real registry.

The models of MMSegmentation require mmcv's compiled operators, which are not built here. Therefore
`mmseg.models` is replaced by an empty package whose path is the real folder, so that single real files can be
imported: the registry and the cross-entropy are those of MMSegmentation. A complete segmentor is not run.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from torch.nn.functional import cross_entropy

from statsvc.errors import InvalidParameter
from statsvc.integrations.mmseg import config
from statsvc.losses import CombinedLoss
from statsvc.weighting.class_weights import ClassWeights
from support.small_segmentation import batch, weights_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore")  # MMEngine and MMSegmentation raise warnings

BASE = """
model = dict(
    type='EncoderDecoder',
    decode_head=dict(
        type='FCNHead', num_classes=4,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
"""


@pytest.fixture(scope="module", autouse=True)
def models_without_operators() -> Iterator[None]:
    folder = Path(mmseg.__file__).parent / "models"
    names = {"mmseg.models": folder, "mmseg.models.losses": folder / "losses"}
    for name, path in names.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]  # type: ignore[attr-defined]
    yield
    for name in names:
        del sys.modules[name]


@pytest.fixture
def weights() -> ClassWeights:
    return weights_of()


def logits() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def load_config(tmp_path: Path, text: str) -> Config:
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "weights.py").write_text("_base_ = './base.py'\n" + text)
    return Config.fromfile(str(tmp_path / "weights.py"))


def build_loss(merged: Config) -> Any:
    """Return the loss of the decode head, of a cascade's last one."""
    head = merged.model.decode_head
    return MODELS.build((head[-1] if isinstance(head, list) else head).loss_decode)


def test_the_fragment_replaces_the_loss_of_the_decode_head(weights: ClassWeights, tmp_path: Path) -> None:
    merged = load_config(tmp_path, config(weights, ce_weight=0.7, dice_weight=0.3))
    assert merged.model.type == "EncoderDecoder"
    head_loss = merged.model.decode_head.loss_decode
    assert set(head_loss) == {"type", "class_weights", "ce_weight", "dice_weight", "loss_weight"}
    assert "auxiliary_head" not in merged.model
    loss = build_loss(merged)
    label = batch(0)[1]
    expected = CombinedLoss(ce_weight=0.7, dice_weight=0.3, class_weights=weights)(logits(), label)
    # Called as by a decode head:
    assert torch.equal(loss(logits(), label, weight=None, ignore_index=255), expected)
    assert loss.loss_name == "loss_statsvc"
    ce = build_loss(load_config(tmp_path, config(weights, ce_weight=1, dice_weight=0)))(logits(), label)
    torch.testing.assert_close(ce, cross_entropy(logits(), label, weights.tensor(), ignore_index=255))


@pytest.mark.parametrize(
    ("model", "decode", "auxiliary"),
    [
        ("pspnet_r50-d8", [1.0], [0.4]),
        ("ocrnet_r50-d8", [0.4, 1.0], []),  # a cascade
        ("pointrend_r50", [1.0, 1.0], []),  # a cascade whose second head has points instead of pixels
        ("bisenetv2", [1.0], [1.0] * 4),
        ("icnet_r50-d8", [1.0], [0.4, 0.4]),
        ("stdc", [1.0], [1.0, 1.0, None]),  # the last head predicts edges
    ],
)
def test_the_loss_replaces_cross_entropy_in_every_head_of_mmsegs_models(
    weights: ClassWeights, tmp_path: Path, model: str, decode: list[Any], auxiliary: list[Any]
) -> None:
    file = Path(mmseg.__file__).parent / ".mim" / "configs" / "_base_" / "models" / f"{model}.py"
    (tmp_path / "base.py").write_text(file.read_text().replace("num_classes=19", "num_classes=4"))
    (tmp_path / "weights.py").write_text("_base_ = './base.py'\n" + config(weights))
    merged, base = (Config.fromfile(str(tmp_path / name)) for name in ("weights.py", "base.py"))
    for name, factors in (("decode_head", decode), ("auxiliary_head", auxiliary)):
        heads, before = ([] if cfg.model.get(name) is None else cfg.model[name] for cfg in (merged, base))
        assert isinstance(heads, list) == isinstance(before, list)
        heads, before = (value if isinstance(value, list) else [value] for value in (heads, before))
        assert len(heads) == len(factors)
        for head, original, factor in zip(heads, before, factors, strict=True):
            assert {**head, "loss_decode": 0} == {**original, "loss_decode": 0}
            if factor is None:
                assert head == original
                continue
            loss = MODELS.build(head.loss_decode)
            assert loss.loss_weight == factor
            assert loss.criterion.weight.tolist() == pytest.approx(weights.to_list())
    points, labels = logits().flatten(2), batch(0)[1].flatten(1)
    expected = CombinedLoss(class_weights=weights)(points, labels)
    torch.testing.assert_close(build_loss(merged)(points, labels, ignore_index=255), decode[-1] * expected)


def test_other_losses_in_a_list_stay(weights: ClassWeights, tmp_path: Path) -> None:
    one = "dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)"
    several = f"[{one.replace('1.0', '0.5')}, dict(type='DiceLoss', loss_weight=3.0)]"
    (tmp_path / "base.py").write_text(BASE.replace(one, several))
    (tmp_path / "weights.py").write_text("_base_ = './base.py'\n" + config(weights))
    losses = Config.fromfile(str(tmp_path / "weights.py")).model.decode_head.loss_decode
    assert [(loss.type, loss.loss_weight) for loss in losses] == [("StatsvcLoss", 0.5), ("DiceLoss", 3.0)]


def test_a_head_without_cross_entropy_of_these_classes_is_rejected(
    weights: ClassWeights, tmp_path: Path
) -> None:
    (tmp_path / "base.py").write_text(BASE.replace("num_classes=4", "num_classes=19"))
    (tmp_path / "weights.py").write_text("_base_ = './base.py'\n" + config(weights))
    with pytest.raises(InvalidParameter, match=r"no cross-entropy of 4 classes \(num_classes is \{19\}\)"):
        Config.fromfile(str(tmp_path / "weights.py"))


def test_the_config_saved_by_a_run_contains_the_weights(weights: ClassWeights, tmp_path: Path) -> None:
    load_config(tmp_path, config(weights)).dump(str(tmp_path / "saved.py"))
    saved = Config.fromfile(str(tmp_path / "saved.py"))
    record = saved.model.decode_head.loss_decode.class_weights.to_dict()
    assert record == weights.to_dict()
    assert ClassWeights.from_dict(record).digest == weights.digest
    assert build_loss(saved).criterion.provenance["dataset"] == weights.dataset


def test_unsupported_arguments_of_the_loss_are_rejected(weights: ClassWeights, tmp_path: Path) -> None:
    loss = build_loss(load_config(tmp_path, config(weights)))
    label = batch(0)[1]
    with pytest.raises(InvalidParameter, match="is 0 in the decode head, but 255 in the loss"):
        loss(logits(), label, ignore_index=0)
    with pytest.raises(InvalidParameter, match="does not support pixel weights"):
        loss(logits(), label, weight=torch.ones(2, 8, 8))


def test_the_weighted_cross_entropy_of_mmseg_fails_for_ignored_pixels(weights: ClassWeights) -> None:
    """The reason why the fragment does not use it. Without ignored pixels, the losses are equal."""
    mmseg_losses = importlib.import_module("mmseg.models.losses.cross_entropy_loss")
    loss = mmseg_losses.CrossEntropyLoss(class_weight=weights.to_list(), avg_non_ignore=True)
    label = batch(0)[1]
    with pytest.raises(IndexError):
        loss(logits(), label, ignore_index=255)
    unignored = label.clamp(max=3)
    expected = CombinedLoss(ce_weight=1, dice_weight=0, class_weights=weights)(logits(), unignored)
    torch.testing.assert_close(loss(logits(), unignored, ignore_index=255), expected)

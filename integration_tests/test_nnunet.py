"""The trainer in the real nnU-Net: its loss, a training step, its checkpoint, and a continued training."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

from statsvc.client.client import Client
from statsvc.errors import InvalidParameter
from statsvc.losses import CombinedLoss
from statsvc.store import home as homes
from support.publishing import label_maps, publish
from support.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # nnU-Net and its imports raise warnings

NAME = "Dataset001_Street"
PLANS: dict[str, Any] = {
    "dataset_name": NAME,
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "NaturalImage2DIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "label_manager": "LabelManager",
    "configurations": {
        "2d": {
            "data_identifier": "nnUNetPlans_2d",
            "batch_size": 2,
            "patch_size": [32, 32],
            "spacing": [1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "batch_dice": True,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [4, 8, 8],
                    "conv_op": "torch.nn.modules.conv.Conv2d",
                    "kernel_sizes": [[3, 3]] * 3,
                    "strides": [[1, 1], [2, 2], [2, 2]],
                    "n_conv_per_stage": [1, 1, 1],
                    "n_conv_per_stage_decoder": [1, 1],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }
    },
}


def dataset(**more_labels: Any) -> dict[str, Any]:
    labels = {"background": 0, "person": 1, "pole": 2, "sky": 3}
    return {
        "channel_names": {"0": "gray"},
        "labels": labels | more_labels,
        "numTraining": 6,
        "file_ending": ".png",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of nnU-Net, which reads their paths when it is imported."""
    folder = tmp_path_factory.mktemp("nnunet")
    for part in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{part}"] = str(folder / part)
    preprocessed = folder / "preprocessed" / NAME / "nnUNetPlans_2d"
    preprocessed.mkdir(parents=True)
    (preprocessed / "case_0.npz").touch()  # nnU-Net selects the reader by the file type
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("statsvc") / "home"))
    publish(home, NAME, label_maps(), num_classes=4)
    with serving(home) as running:
        yield running


def trainer(dataset_json: dict[str, Any], fold: int = 0) -> Any:
    from statsvc.integrations.nnunet import nnUNetTrainerClassWeights

    torch.manual_seed(0)
    return nnUNetTrainerClassWeights(PLANS, "2d", fold, dataset_json, torch.device("cpu"))


def batch(seed: int, ignored: int | None = None) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 4, (2, 1, 32, 32), generator=generator).float()
    if ignored is not None:
        label[:, :, :5] = ignored
    # With deep supervision, nnU-Net has a target at each resolution.
    return {"data": torch.randn(2, 1, 32, 32, generator=generator), "target": [label, label[:, :, ::2, ::2]]}


@pytest.mark.parametrize("ignored", [None, 4])
def test_the_loss_has_the_cross_entropy_of_statsvc_and_the_dice_of_nnunet(
    folder: Path, url: str, ignored: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    monkeypatch.setenv("STATSVC_URL", url)
    dataset_json = dataset() if ignored is None else dataset(ignore=ignored)
    ours = trainer(dataset_json)
    ours.initialize()
    plain = nnUNetTrainer(PLANS, "2d", 0, dataset_json, torch.device("cpu"))
    plain.initialize()
    weights = Client(url).weights(
        NAME, method="sqrt_inv_freq", num_classes=4, ignore_index=[] if ignored is None else [ignored]
    )
    sample, scales = batch(0, ignored), ours.loss.weight_factors
    with torch.no_grad():
        outputs = ours.network(sample["data"])
        loss = ours.loss(outputs, sample["target"])
        expected = plain.loss(outputs, sample["target"])
        for weight, logits, label in zip(scales, outputs, sample["target"], strict=True):
            for sign, class_weights in ((1, weights), (-1, None)):
                ce = CombinedLoss(
                    ce_weight=1,
                    dice_weight=0,
                    class_weights=class_weights,
                    ignore_index=-100 if ignored is None else ignored,
                )
                expected = expected + sign * weight * ce(logits, label[:, 0].long())
    torch.testing.assert_close(loss, expected)
    assert not torch.isclose(loss, plain.loss(outputs, sample["target"]), rtol=1e-3)


def test_a_continued_training_has_the_same_weights_without_a_server(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATSVC_URL", url)
    first = trainer(dataset(), fold=1)
    first.initialize()
    losses = [float(first.train_step(batch(0))["loss"]) for _ in range(3)]
    assert losses[2] < losses[0]
    first.save_checkpoint(os.path.join(first.output_folder, "checkpoint_latest.pth"))
    record = json.loads(
        (folder / "results" / NAME)
        .joinpath("nnUNetTrainerClassWeights__nnUNetPlans__2d", "fold_1", "class_weights.json")
        .read_text()
    )
    weights = Client(url).weights(NAME, method="sqrt_inv_freq", num_classes=4)
    assert record["weights"] == weights.to_list()
    with open(first.log_file) as log:
        assert f"digest {weights.digest}" in log.read()

    monkeypatch.setenv("STATSVC_URL", "http://127.0.0.1:1")
    continued = trainer(dataset(), fold=1)
    continued.load_checkpoint(os.path.join(continued.output_folder, "checkpoint_latest.pth"))
    assert torch.equal(continued.loss.loss.ce.weight, first.loss.loss.ce.weight)
    assert torch.equal(continued.loss.loss.ce.weight, weights.tensor())


def test_a_dataset_with_regions_is_rejected(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATSVC_URL", url)
    dataset_json = dataset() | {
        "labels": {"background": 0, "whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
    }
    with pytest.raises(InvalidParameter, match="has regions"):
        trainer(dataset_json).initialize()


def test_nnunet_finds_the_trainer_in_a_file_of_its_trainer_folder(folder: Path, tmp_path: Path) -> None:
    """The file that docs/how-to/integrations.md describes, and nnU-Net's search for a trainer by name."""
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    package = tmp_path / "trainers"
    package.mkdir()
    (package / "__init__.py").touch()
    line = "from statsvc.integrations.nnunet import nnUNetTrainerClassWeights\n"
    (package / "class_weights.py").write_text(line)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        trainer_class = recursive_find_python_class(str(package), "nnUNetTrainerClassWeights", "trainers")
    assert trainer_class.__module__ == "statsvc.integrations.nnunet"


def test_a_method_that_does_not_return_weights_is_rejected(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATSVC_URL", url)
    additive = trainer(dataset(), fold=2)
    monkeypatch.setattr(type(additive), "query", {"method": "logit_adjustment"})
    with pytest.raises(InvalidParameter, match="logit_adjustment returns numbers of kind additive"):
        additive.initialize()

"""The Lightning callback in real training runs, in one process and in two."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from statsvc.losses import CombinedLoss
from support.heavy_imports import heavy_import
from support.small_segmentation import NAMES, weights_of
from support.torchrun import run_ranks, subprocess_environment

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.integrations.lightning import ClassWeightsCallback
    from support.lightning_runs import Net

# Lightning itself warns about workers, log intervals and deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClassWeightsCallback, Net]:
    fit = heavy_import("support.lightning_runs").fit
    folder = tmp_path_factory.mktemp("run")
    callback = heavy_import("statsvc.integrations.lightning").ClassWeightsCallback(
        weights_of(),
        iou=lambda module: module.iou.compute(),
        loss="train_loss",
        baseline=[1.0, 1.0, 0.0, 0.0],
    )
    return folder, callback, fit(folder, callback, epochs=2)


def test_the_loss_of_a_training_step_is_weighted(run: tuple[Path, ClassWeightsCallback, Net]) -> None:
    _, callback, net = run
    torch_loss = nn.CrossEntropyLoss(weight=callback.weights.tensor(), ignore_index=255)
    cross_entropy = CombinedLoss(ce_weight=1, dice_weight=0, class_weights=callback.weights)
    for logits, labels, loss in net.steps:
        assert torch.equal(CombinedLoss(class_weights=callback.weights)(logits, labels), loss)
        torch.testing.assert_close(cross_entropy(logits, labels), torch_loss(logits, labels))


def test_the_metrics_of_each_epoch_and_the_weights_are_logged(
    run: tuple[Path, ClassWeightsCallback, Net],
) -> None:
    folder, callback, net = run
    with (folder / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("iou/road")]
    assert [float(row["epoch"]) for row in rows] == [0, 1]
    losses = [float(sum(loss for *_, loss in net.steps[first : first + 4]) / 4) for first in (0, 4)]
    assert [float(row["monitor/loss"]) for row in rows] == pytest.approx(losses, rel=1e-5)
    classification = heavy_import("torchmetrics.classification")
    metric = classification.MulticlassJaccardIndex(4, average="none", ignore_index=255)
    for images, labels in heavy_import("support.lightning_runs").loader():
        metric.update(net.net(images).argmax(1), labels)
    expected = metric.compute().tolist()
    assert [float(rows[-1][f"iou/{name}"]) for name in NAMES] == pytest.approx(expected, rel=1e-5)
    hyperparameters = (folder / "run" / "hparams.yaml").read_text()
    assert "class_weights/_method: sqrt_inv_freq" in hyperparameters
    assert f"class_weights/_digest: {callback.weights.digest}" in hyperparameters
    assert "frequent_class_down" in [warning["code"] for warning in callback.warnings]


def test_a_checkpoint_has_the_weights_and_resuming_with_others_warns(
    run: tuple[Path, ClassWeightsCallback, Net], tmp_path: Path
) -> None:
    from statsvc.integrations.lightning import ClassWeightsCallback
    from support.lightning_runs import fit

    folder, callback, _ = run
    saved = torch.load(folder / "last.ckpt", weights_only=False)
    assert saved["callbacks"]["ClassWeightsCallback"]["record"] == callback.weights.to_dict()
    assert not any("criterion.weight" in key for key in saved["state_dict"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, ClassWeightsCallback(callback.weights), 3, folder / "last.ckpt")
    assert not [warning for warning in caught if "other class weights" in str(warning.message)]
    with pytest.warns(UserWarning, match=r"other class weights: <.*sqrt_inv_freq.*, now <.*enet"):
        fit(tmp_path, ClassWeightsCallback(weights_of("enet")), 3, folder / "last.ckpt")


RANK = """
import json, os, sys, warnings
from pathlib import Path

warnings.simplefilter("ignore")
from support.lightning_runs import QUIET, Net, loader, pl
from support.small_segmentation import weights_of
from support.torchrun import leave_process_group
from statsvc.errors import Conflict
from statsvc.integrations.lightning import ClassWeightsCallback

folder, rank = Path(sys.argv[1]), int(os.environ["LOCAL_RANK"])
outcomes = []
for methods in (("sqrt_inv_freq", "enet"), ("sqrt_inv_freq", "sqrt_inv_freq")):
    weights = weights_of(methods[rank])
    callback = ClassWeightsCallback(weights, iou=lambda module: module.iou.compute(), loss="train_loss")
    trainer = pl.Trainer(
        **QUIET, devices=2, strategy="ddp", max_epochs=1, callbacks=[callback], logger=False,
        enable_checkpointing=False,
    )
    try:
        trainer.fit(Net(weights), loader(), loader())
        outcomes.append([weights.digest, len(callback._monitor._iou_history)])
    except Conflict as error:
        outcomes.append(str(error))
(folder / f"{rank}.json").write_text(json.dumps(outcomes))
leave_process_group()
"""


def test_two_ranks_train_with_equal_weights_and_both_reject_different_ones(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    run_ranks(script, str(tmp_path))
    outcomes = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    different, equal = zip(*outcomes, strict=True)
    assert different[0] == different[1]
    assert different[0].startswith("the ranks train with different class weights (digests rank 0: ")
    digest = weights_of().digest
    assert list(equal) == [[digest, 1], [digest, 0]]  # only rank 0 monitors


PYTORCH_LIGHTNING = """
import sys, warnings
warnings.simplefilter("ignore")
import pytorch_lightning as pl
import torch
from support.small_segmentation import batch, weights_of
from statsvc.integrations.lightning import ClassWeightsCallback

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 4, 1)
    def training_step(self, batch, _):
        return self.net(batch[0]).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

weights = weights_of()
callback = ClassWeightsCallback(weights)
assert isinstance(callback, pl.Callback)
trainer = pl.Trainer(accelerator="cpu", max_epochs=1, callbacks=[callback], logger=False,
                     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Net(), torch.utils.data.DataLoader([batch(0)], batch_size=None))
trainer.save_checkpoint("last.ckpt")
saved = torch.load("last.ckpt", weights_only=False)["callbacks"]["ClassWeightsCallback"]["record"]
assert saved == weights.to_dict()
print("lightning" in sys.modules)
"""


def test_a_script_that_uses_pytorch_lightning_gets_a_callback_of_that_package(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", PYTORCH_LIGHTNING],
        cwd=tmp_path,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "False\n"

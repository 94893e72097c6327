"""The callback in real runs of Lightning, in one process and in two."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from support.small_segmentation import batch, weights_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Lightning's own imports
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger
    from torchmetrics.classification import MulticlassJaccardIndex

from statsvc.integrations.lightning import ClassWeightsCallback
from statsvc.losses import CombinedLoss

if TYPE_CHECKING:
    import statsvc

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # Lightning has its own: workers, log intervals, deprecations


class Net(pl.LightningModule):
    """A linear network whose losses are kept."""

    def __init__(self, weights: statsvc.ClassWeights) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 4, 1)
        self.criterion = CombinedLoss(class_weights=weights)
        self.iou = MulticlassJaccardIndex(4, average="none", ignore_index=255)
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def training_step(self, pair: Any, _: int) -> torch.Tensor:
        logits = self.net(pair[0])
        loss: torch.Tensor = self.criterion(logits, pair[1])
        self.seen.append((logits.detach(), pair[1], loss.detach()))
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, pair: Any, _: int) -> None:
        self.iou.update(self.net(pair[0]).argmax(1), pair[1])

    def on_validation_epoch_end(self) -> None:
        self.iou.reset()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def loader() -> DataLoader[Any]:
    return DataLoader([batch(n) for n in range(4)], batch_size=None)


def fit(folder: Path, callback: ClassWeightsCallback, epochs: int, ckpt: Path | None = None) -> Net:
    pl.seed_everything(0)
    net = Net(callback.weights)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[callback],
        logger=CSVLogger(folder, name="", version="run"),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
    )
    trainer.fit(net, loader(), loader(), ckpt_path=None if ckpt is None else str(ckpt))
    trainer.save_checkpoint(folder / "last.ckpt")
    return net


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClassWeightsCallback, Net]:
    folder = tmp_path_factory.mktemp("run")
    callback = ClassWeightsCallback(
        weights_of(),
        iou=lambda module: module.iou.compute(),
        loss="train_loss",
        baseline=[1.0, 1.0, 0.0, 0.0],
    )
    return folder, callback, fit(folder, callback, epochs=2)


def test_the_loss_of_a_step_is_the_weighted_one(run: tuple[Path, ClassWeightsCallback, Net]) -> None:
    _, callback, net = run
    plain = nn.CrossEntropyLoss(weight=callback.weights.tensor(), ignore_index=255)
    ce_alone = CombinedLoss(ce_weight=1, dice_weight=0, class_weights=callback.weights)
    for logits, label, loss in net.seen:
        assert torch.equal(CombinedLoss(class_weights=callback.weights)(logits, label), loss)
        torch.testing.assert_close(ce_alone(logits, label), plain(logits, label))


def test_each_epoch_is_in_the_logger_and_so_are_the_weights(
    run: tuple[Path, ClassWeightsCallback, Net],
) -> None:
    folder, callback, net = run
    with (folder / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("iou/road")]
    assert [float(row["epoch"]) for row in rows] == [0, 1]
    losses = [float(sum(loss for *_, loss in net.seen[at : at + 4]) / 4) for at in (0, 4)]
    assert [float(row["monitor/loss"]) for row in rows] == pytest.approx(losses, rel=1e-5)
    metric = MulticlassJaccardIndex(4, average="none", ignore_index=255)
    for image, label in loader():
        metric.update(net.net(image).argmax(1), label)
    expected = metric.compute().tolist()
    names = ("road", "sky", "person", "pole")
    assert [float(rows[-1][f"iou/{name}"]) for name in names] == pytest.approx(expected, rel=1e-5)
    hyper = (folder / "run" / "hparams.yaml").read_text()
    assert "class_weights/_method: sqrt_inv_freq" in hyper
    assert f"class_weights/_digest: {callback.weights.digest}" in hyper
    assert "frequent_class_down" in [warning["code"] for warning in callback.warnings]


def test_a_checkpoint_holds_the_weights_and_resuming_with_others_warns(
    run: tuple[Path, ClassWeightsCallback, Net], tmp_path: Path
) -> None:
    folder, callback, _ = run
    saved = torch.load(folder / "last.ckpt", weights_only=False)
    assert saved["callbacks"]["ClassWeightsCallback"]["record"] == callback.weights.to_dict()
    assert not any("criterion.weight" in key for key in saved["state_dict"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, ClassWeightsCallback(callback.weights), 3, folder / "last.ckpt")
    assert not [w for w in caught if "other class weights" in str(w.message)]
    with pytest.warns(UserWarning, match=r"trained with other class weights: <.*sqrt_inv_freq.* now"):
        fit(tmp_path, ClassWeightsCallback(weights_of("enet")), 3, folder / "last.ckpt")


RANKS = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
from test_lightning import *
from statsvc.errors import Conflict

folder, rank = Path(sys.argv[1]), int(os.environ["LOCAL_RANK"])
outcomes = []
for methods in (("sqrt_inv_freq", "enet"), ("sqrt_inv_freq", "sqrt_inv_freq")):
    weights = weights_of(methods[rank])
    callback = ClassWeightsCallback(weights, iou=lambda module: module.iou.compute(), loss="train_loss")
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, callbacks=[callback], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    try:
        trainer.fit(Net(weights), loader(), loader())
        outcomes.append([weights.digest, len(callback._watch._history)])
    except Conflict as problem:
        outcomes.append(str(problem))
(folder / f"{rank}.json").write_text(json.dumps(outcomes))
"""


def test_two_ranks_train_with_equal_weights_and_both_refuse_different_ones(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    tests = Path(__file__).parent
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"},
        timeout=200,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    different, same = zip(
        *(json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)), strict=True
    )
    assert different[0] == different[1]
    assert different[0].startswith("the ranks train with different class weights (digests rank 0: ")
    digest = weights_of().digest
    assert list(same) == [[digest, 1], [digest, 0]]  # rank 0 watches


def test_a_script_of_pytorch_lightning_gets_a_callback_of_pytorch_lightning(tmp_path: Path) -> None:
    code = """
import sys, warnings
warnings.simplefilter("ignore")
import pytorch_lightning as pl
import torch
from small_segmentation import batch, weights_of
from statsvc.integrations.lightning import ClassWeightsCallback

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 4, 1)
    def training_step(self, pair, _):
        return self.net(pair[0]).sum()
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
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"

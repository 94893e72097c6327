"""The samplers in the loaders of Accelerate and Lightning, on two ranks that torchrun starts with gloo."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.torchrun import run_ranks

if TYPE_CHECKING:
    from pathlib import Path

RANK = """
import json, os, sys, warnings
from pathlib import Path
from typing import Any
import numpy as np
import torch.distributed as dist
from torch.utils.data import DataLoader
from statsvc.errors import InvalidParameter
from statsvc.samplers import RareClassSampler, RepeatFactorSampler
from statsvc.sampling.result import Sampling

rank, results = int(os.environ["RANK"]), {}

def sampler(images=40, **options):
    # Equal probabilities: an epoch has each image once.
    paths = [f"{k:02}.png" for k in range(images)]
    head = {"dataset": "d", "version": 1, "spec": {}, "failed": 0, "classes": [], "warnings": [],
            "sampler": "repeat_factor", "images": images, "epoch": float(images)}
    return RepeatFactorSampler(paths, Sampling(head, paths, np.full(images, 1 / images)), **options)

def loader(images=40, **options):
    return DataLoader(range(images), batch_size=4, sampler=sampler(images, **options))

def batches(loader):
    return [batch.tolist() for batch in loader]

early = sampler()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    list(early)
results["warning"] = str(caught[0].message)
dist.init_process_group("gloo")
results["early"] = list(early)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    list(sampler(rank=0, num_replicas=1))
results["one replica"] = str(caught[0].message)

from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
LOADERS = {"shard": {}, "split": {"split_batches": True}, "dispatch": {"dispatch_batches": True}}
for name, options in LOADERS.items():
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))
    prepared = accelerator.prepare(loader())
    results[name] = [len(prepared), batches(prepared), batches(prepared)]
uneven = sampler(42)
prepared = Accelerator(cpu=True).prepare(DataLoader(range(42), batch_size=4, sampler=uneven))
results["uneven"] = batches(prepared)
# A half epoch: three batches of four on each of two ranks.
results["state"] = [uneven.state_dict()["done"], uneven.state_dict(consumed=12)["done"]]
try:
    batches(Accelerator(cpu=True).prepare(loader(rank=rank, num_replicas=2)))
except InvalidParameter as error:
    results["twice"] = str(error)

warnings.simplefilter("ignore")  # raised by Lightning
import lightning.pytorch as pl
import torch

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.seen = torch.nn.Linear(1, 1), {}
    def train_dataloader(self):
        return loader()
    def training_step(self, batch, _):
        self.seen.setdefault(self.current_epoch, []).extend(batch.tolist())
        return self.net(batch[:, None].float()).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-9)

net = Net()
pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False,
           enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False).fit(net)
results["lightning"] = list(net.seen.values())
(Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(results))
from support.torchrun import leave_process_group
leave_process_group()
"""


def test_two_ranks_draw_an_epoch_once_in_every_framework(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    run_ranks(script, str(tmp_path))
    ranks: list[dict[str, Any]] = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    every = list(range(40))

    assert all("is not initialized. Call init_process_group" in result["warning"] for result in ranks)
    assert sorted(ranks[0]["early"] + ranks[1]["early"]) == every
    assert all("2 processes draws the same indices" in result["one replica"] for result in ranks)
    for name, length in (("shard", 5), ("split", 10), ("dispatch", 5)):
        epochs = []
        for epoch in (1, 2):
            drawn = [index for result in ranks for batch in result[name][epoch] for index in batch]
            assert sorted(drawn) == every, name
            epochs.append(drawn)
        assert [result[name][0] for result in ranks] == [length, length], name
        assert epochs[0] != epochs[1], name  # Accelerate sets the epoch
    uneven = [index for result in ranks for batch in result["uneven"] for index in batch]
    assert set(uneven) == set(range(42))
    assert len(uneven) == 48  # Accelerate completes the last batches
    assert all(result["state"] == [42, 24] for result in ranks)
    assert all("distributed twice; leave out rank" in result["twice"] for result in ranks)
    for epoch in range(2):
        assert sorted(ranks[0]["lightning"][epoch] + ranks[1]["lightning"][epoch]) == every
    assert ranks[0]["lightning"][0] != ranks[0]["lightning"][1]

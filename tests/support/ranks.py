"""The script of every rank in the tests of sync=True, started by torchrun: ranks.py URL OUT."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

import statsvc
from statsvc.client.client import Client
from statsvc.client.distributed import from_rank_zero
from support.torchrun import leave_process_group

if TYPE_CHECKING:
    from collections.abc import Callable

url, out = sys.argv[1], Path(sys.argv[2])
messages: list[str] = []


class ListHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        messages.append(record.getMessage())


logging.getLogger("statsvc.client").addHandler(ListHandler())
logging.getLogger("statsvc.client").setLevel(logging.INFO)
results: dict[str, Any] = {}


def step(name: str, request: Callable[[], torch.Tensor | statsvc.ClassWeights]) -> None:
    """Record the weights or the error of a request, and its log messages. Then wait for the other ranks."""
    messages.clear()
    try:
        weights = request()
        numbers = weights.tolist() if isinstance(weights, torch.Tensor) else weights.to_list()
        results[name] = {"weights": numbers}
    except Exception as error:  # noqa: BLE001  the test compares the error, whatever it is
        results[name] = {"error": type(error).__name__, "message": str(error)}
    results[name]["log"] = list(messages)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


step("no process group", lambda: Client(url).weights("street", method="uniform", sync=True))
# With a timeout, so that a failing test leaves no process behind.
torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=180))
rank = torch.distributed.get_rank()
step("class_weights", lambda: statsvc.class_weights(url, dataset="street", method="enet", sync=True))
step("without sync", lambda: Client(url).weights("street", method="power", alpha=0.5))
step("client.weights", lambda: Client(url).weights("street", version=1, sync=True))
step("unknown", lambda: statsvc.class_weights(url, dataset="nowhere", sync=True))
step("names", lambda: Client(url).weights("street", expect_classes=["a"], sync=True))


class Unpicklable(Exception):
    """Unpickling fails, because it calls the constructor with the message only."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def raise_unpicklable() -> torch.Tensor:
    raise Unpicklable(1, 2)


step("unpicklable", lambda: from_rank_zero(raise_unpicklable))
# Only rank 0 needs the URL and the checkpoint.
if rank == 0:
    os.environ["STATSVC_URL"] = url
record = Client(url).weights("street", method="inverse_freq").to_dict() if rank == 0 else None
step("url on rank 0", lambda: statsvc.class_weights(dataset="street", method="linear", sync=True))
step("record on rank 0", lambda: statsvc.class_weights(dataset="street", pinned=record, sync=True))
os.environ.pop("STATSVC_URL", None)
step("no url", lambda: statsvc.class_weights(dataset="street", sync=True))

(out / f"{rank}.json").write_text(json.dumps(results))
leave_process_group()

"""What every rank of the tests of sync=True does; torchrun starts it: ranks.py URL OUT."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed

import statsvc
from statsvc.client.client import Client

url, out = sys.argv[1], Path(sys.argv[2])
seen: list[str] = []


class Listing(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        seen.append(record.getMessage())


logging.getLogger("statsvc.client").addHandler(Listing())
logging.getLogger("statsvc.client").setLevel(logging.INFO)
result: dict[str, Any] = {}


def step(name: str, ask: Any) -> None:
    """Note what a rank gets, or the error's type and text, and what it logs; then let the others catch up."""
    seen.clear()
    try:
        got = ask()
        result[name] = {"weights": got.tolist() if isinstance(got, torch.Tensor) else got.to_list()}
    except Exception as error:  # noqa: BLE001  whatever it is, it is what the test looks at
        result[name] = {"error": type(error).__name__, "says": str(error)}
    result[name]["log"] = list(seen)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


step("before", lambda: Client(url).weights("street", method="uniform", sync=True))
# Whoever waits for a rank that never comes gives up, so that a failing test leaves no process behind.
torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
rank = torch.distributed.get_rank()
step("together", lambda: statsvc.class_weights(url, dataset="street", method="enet", sync=True))
step("apart", lambda: Client(url).weights("street", method="power", alpha=0.5))
step("client", lambda: Client(url).weights("street", version=1, sync=True))
step("unknown", lambda: statsvc.class_weights(url, dataset="nowhere", sync=True))
step("names", lambda: Client(url).weights("street", expect_classes=["a"], sync=True))


class Odd(Exception):
    """Cannot be pickled: its constructor takes what it does not keep."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def odd() -> Any:
    raise Odd(1, 2)


step("odd", lambda: statsvc.client.distributed.from_rank_zero(odd))  # type: ignore[attr-defined]
# Only rank 0 needs to know where the server is, or to have the checkpoint.
if rank == 0:
    os.environ["STATSVC_URL"] = url
record = Client(url).weights("street", method="inverse_freq").to_dict() if rank == 0 else None
step("alone", lambda: statsvc.class_weights(dataset="street", method="linear", sync=True))
step("pinned", lambda: statsvc.class_weights(dataset="street", pinned=record, sync=True))
os.environ.pop("STATSVC_URL", None)
step("no url", lambda: statsvc.class_weights(dataset="street", sync=True))

(out / f"{rank}.json").write_text(json.dumps(result))
torch.distributed.destroy_process_group()

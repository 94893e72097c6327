"""One process asks and every process of a torch.distributed group gets the answer."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from statsvc.errors import StatsvcError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("statsvc.client")
T = TypeVar("T")


def rank() -> int | None:
    """Return this process's rank, or None outside an initialised process group."""
    group = _group()
    return None if group is None else int(group.get_rank())


def from_rank_zero(ask: Callable[[], T]) -> T:
    """Return on every rank what `ask` returns on rank 0; what it raises there is raised on every rank.

    A collective over the default process group: every rank must call it, in the same order among its
    other collectives. `ask` runs on rank 0 only. With NCCL, each rank must have chosen its device before
    (`torch.cuda.set_device`). Outside an initialised process group, `ask` simply runs.
    """
    group = _group()
    if group is None:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            _log.warning(
                "sync=True before torch.distributed.init_process_group: each of the %s processes asks for "
                "itself; call it after",
                os.environ["WORLD_SIZE"],
            )
        return ask()
    outcome: list[Any] = [None]
    if group.get_rank() == 0:
        try:
            outcome = [(ask(), None)]
        except Exception as error:  # noqa: BLE001  the other ranks wait, whatever it is
            outcome = [(None, _portable(error))]
    group.broadcast_object_list(outcome, src=0)
    answer, raised = outcome[0]
    if raised is not None:
        raise raised
    result: T = answer
    return result


def _group() -> Any:
    # Whoever initialised a process group has imported it; nobody else has to.
    module = sys.modules.get("torch.distributed")
    return module if module is not None and module.is_available() and module.is_initialized() else None


def _portable(error: Exception) -> Exception:
    """Return the error, or one with its type's name and text where it cannot be pickled."""
    try:
        same = pickle.loads(pickle.dumps(error))  # noqa: S301  of this process
    except Exception:  # noqa: BLE001  an exception's constructor can raise anything
        same = None
    if type(same) is type(error) and str(same) == str(error):
        return error
    return StatsvcError(f"{type(error).__name__}: {error}")

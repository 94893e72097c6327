"""One request for a whole torch.distributed process group."""

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
    """Return the rank of this process, or None if there is no initialized process group."""
    group = _group()
    return None if group is None else int(group.get_rank())


def from_rank_zero(function: Callable[[], T]) -> T:
    """Run `function` on rank 0 and return its result on every rank; an exception is raised on every rank.

    This is a collective over the default process group: every rank must call it, in the same order relative
    to its other collectives. With NCCL, each rank must have selected its device (`torch.cuda.set_device`).
    Without an initialized process group, it calls `function` and returns the result.
    """
    group = _group()
    if group is None:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            _log.warning(
                "sync=True was used before torch.distributed.init_process_group, so each of the %s processes "
                "sends its own request. Initialize the process group first",
                os.environ["WORLD_SIZE"],
            )
        return function()
    outcome: list[Any] = [None]
    if group.get_rank() == 0:
        try:
            outcome = [(function(), None)]
        except Exception as error:  # noqa: BLE001  the other ranks wait for the outcome, whatever it is
            outcome = [(None, _picklable(error))]
    group.broadcast_object_list(outcome, src=0)
    result, failure = outcome[0]
    if failure is not None:
        raise failure
    value: T = result
    return value


def _group() -> Any:
    # A process group can only be initialized if torch.distributed is imported, so do not import it here.
    module = sys.modules.get("torch.distributed")
    return module if module is not None and module.is_available() and module.is_initialized() else None


def _picklable(error: Exception) -> Exception:
    """Return the error, or a `StatsvcError` with its type and text if it cannot be pickled."""
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  pickled in this process
    except Exception:  # noqa: BLE001  an exception's constructor can raise anything
        copy = None
    if type(copy) is type(error) and str(copy) == str(error):
        return error
    return StatsvcError(f"{type(error).__name__}: {error}")

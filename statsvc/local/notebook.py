"""A progress bar in the output of a notebook cell.

HTML has one, so this needs no widgets: `rich` and `tqdm` need the package ipywidgets and its extension of
the notebook server.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL = 0.1
"""Seconds between updates."""


def notebook_bar(what: str) -> Callable[[int, int], None] | None:
    """Return a function `(done, total)` that shows the progress in the cell that runs, or None elsewhere.

    what  plural of what is counted. The bar disappears at the end
    """
    ipython: Any = sys.modules.get("IPython")  # imported in every notebook
    shell = None if ipython is None else ipython.get_ipython()
    if not hasattr(shell, "kernel"):  # a terminal has none
        return None
    handle: Any = None
    next_update = 0.0

    def show(done: int, total: int) -> None:
        nonlocal handle, next_update
        now = time.monotonic()
        if done < total and now < next_update:
            return
        next_update = now + _INTERVAL
        text = f"{done:,} of {total:,} {what}"
        html = f"<progress value='{done}' max='{total}'></progress> {text}" if done < total else ""
        content = {"text/html": html, "text/plain": text}
        if handle is None:
            handle = ipython.display.display(content, raw=True, display_id=True)
        else:
            handle.update(content, raw=True)

    return show

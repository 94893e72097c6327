"""Plots that commands write to files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from statsvc.cli._echo import echo
from statsvc.errors import StatsvcError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUFFIXES = (".png", ".svg", ".pdf")
"""File formats of a plot."""


def check_plot(output: Path) -> None:
    """Reject a plot that cannot be drawn before anything is computed."""
    if output.suffix.lower() not in SUFFIXES:
        raise click.UsageError(
            f"The format of {output} is unknown. Use a name ending in {', '.join(SUFFIXES)}."
        )
    from statsvc.weighting.comparison_plot import require_matplotlib

    try:
        require_matplotlib()
    except ImportError as error:
        raise StatsvcError(str(error)) from error


def write_plot(save: Callable[[Path], None], output: Path) -> None:
    """Write a plot with `save`, and print where it is."""
    try:
        save(output)
    except OSError as error:
        raise StatsvcError(f"{output} cannot be written: {error.strerror or error}") from error
    echo(f"Plot written to {output}", err=True)

"""Texts in CSV files that a spreadsheet opens."""

from __future__ import annotations

from statsvc.common.one_line import one_line

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet executes a cell that begins with one of these."""


def csv_text(text: str) -> str:
    """Return a text as a cell that no spreadsheet executes, without control characters.

    A leading apostrophe, which spreadsheets do not show, marks a cell as text.
    """
    return one_line(f"'{text}" if text.startswith(FORMULA_STARTS) else text)

"""Printing to the terminal, which would obey control characters in names."""

from __future__ import annotations

import logging
import os

import click

from statsvc.common.logs import FORMAT_VARIABLE
from statsvc.common.one_line import one_line

messages = logging.getLogger("statsvc.messages")


def echo(text: str = "", *, err: bool = False, nl: bool = True, level: int = logging.INFO) -> None:
    """Print a text; control characters other than line breaks and tabs are printed as escapes.

    With a log in JSON, what would be printed on stderr is logged, so that every line there is JSON.

    level  of that line of the log
    """
    if err and os.environ.get(FORMAT_VARIABLE) == "json":
        messages.setLevel(logging.INFO)
        messages.log(level, "%s", text)
        return
    click.echo(printable_lines(text), err=err, nl=nl)


def printable_lines(text: str) -> str:
    """Return a text of several lines with its control characters, except tabs, as escapes."""
    if text.isprintable():
        return text
    return "\n".join("\t".join(one_line(cell) for cell in line.split("\t")) for line in text.split("\n"))

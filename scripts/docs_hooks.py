"""Hooks of the documentation build (`make docs`): parameter lists in docstrings, help of every command.

mkdocs.yml names this file twice: as a MkDocs hook, and as a Griffe extension for mkdocstrings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    import click

HELP_MARKER = "<!-- help-of-every-command -->"
HELP_WIDTH = 100
"""Columns of the help texts on the page."""

_ENTRY = re.compile(r"^(?P<indent> *)(?P<names>[\w*.\[\]]+(?:, ?[\w*.\[\]]+)*) {2,}(?P<text>\S.*)$")


def with_parameter_lists(text: str) -> str:
    """Return a docstring as Markdown: aligned `name   text` columns become a list, `::` a code block."""
    lines: list[str] = []
    column: int | None = None  # where the descriptions of the current list start
    for line in text.splitlines():
        entry = _ENTRY.match(line)
        if entry and not line.startswith("    "):
            if column is None and lines and lines[-1]:
                lines.append("")
            column = entry.start("text")
            names = ", ".join(f"`{name.strip()}`" for name in entry["names"].split(","))
            lines.append(f"- {names}: {entry['text']}")
        elif column is not None and line.startswith(" ") and line.strip():
            lines.append(f"    {line.strip()}")
        else:
            column = None
            if line.strip() == "::":
                continue
            lines.append(line[:-1] if line.endswith("::") else line)
    return "\n".join(lines)


class ParameterLists(griffe.Extension):
    """Convert the parameter lists of every docstring that the API reference shows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Convert the docstring of an object after Griffe has loaded it."""
        if obj.docstring is not None:
            obj.docstring.value = with_parameter_lists(obj.docstring.value)


def _help_of(command: click.Command, path: str) -> list[str]:
    """Return the Markdown section of a command, and those of its subcommands."""
    import click

    context = click.Context(command, info_name=path, terminal_width=HELP_WIDTH, max_content_width=HELP_WIDTH)
    sections = [f"### {path}", "", "```text", command.get_help(context), "```", ""]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            subcommand = command.get_command(context, name)
            if subcommand is not None and not subcommand.hidden:
                sections += _help_of(subcommand, f"{path} {name}")
    return sections


def help_of_every_command() -> str:
    """Return the help texts of `statsvc` and of every command as Markdown."""
    from statsvc.cli import cli

    return "\n".join(_help_of(cli, "statsvc"))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Insert the help texts into the page that has the marker."""
    if HELP_MARKER not in markdown:
        return markdown
    return markdown.replace(HELP_MARKER, help_of_every_command())

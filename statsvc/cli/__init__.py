"""The command line: data on stdout, everything else on stderr, exit code 0, 1 (failed) or 2 (usage)."""

from __future__ import annotations

import gc as garbage_collector  # `statsvc.cli.gc` is a command
import logging
import os

import click

from statsvc._version import __version__
from statsvc.cli import _config_file as config_file
from statsvc.cli._group import SectionedGroup
from statsvc.common.logs import FORMAT_VARIABLE, FORMATS, configure_logging

EPILOG = """\b
Start with:          statsvc scan FOLDER_OF_LABEL_MAPS
Complete with Tab:   eval "$(_STATSVC_COMPLETE=bash_source statsvc)"
"""


@click.group(
    cls=SectionedGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog=EPILOG,
)
@click.version_option(__version__, message="statsvc %(version)s")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    envvar=config_file.VARIABLE,
    show_envvar=True,
    show_default=f"HOME/{config_file.NAME}",
    is_eager=True,
    expose_value=False,
    callback=config_file.load,
    help="TOML file with values of options.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log progress to stderr.")
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="text",
    envvar=FORMAT_VARIABLE,
    show_envvar=True,
    help="Format of the log on stderr.",
)
def cli(verbose: bool, log_format: str) -> None:
    """Count the classes in segmentation label maps, and compute class weights from the counts."""
    garbage_collector.freeze()
    garbage_collector.enable()
    if os.environ.get(FORMAT_VARIABLE, "text") != log_format:
        os.environ[FORMAT_VARIABLE] = log_format  # for the processes that this one starts
    configure_logging(logging.INFO if verbose else logging.WARNING)


cli.add_sections(
    {
        "Count": ("demo", "scan", "changed", "import"),
        "Weights": ("weights", "compare", "export", "prefetch"),
        "Divide": ("split", "subset"),
        "Inspect": ("datasets", "versions", "diff", "jobs", "doctor", "heatmap"),
        "Operate": ("serve", "runner", "token", "verify", "gc", "rebuild", "upgrade", "config"),
    },
    modules={"import": "import_counts", "subset": "split"},
)


def main() -> None:
    """Run the command line."""
    cli(prog_name="statsvc")

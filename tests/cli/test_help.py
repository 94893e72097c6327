"""The help of every command and option, and completion in a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from statsvc.cli import cli
from support.command_line import invoke

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHORT_HELP_LENGTH = 45
"""Longest summary that click prints without cutting it."""

PRIVATE_WORDS = re.compile(
    r"\b(told|tells?|mends?|beside|whoever|stands in|lapses?|settled?|fitness|at once|looks? at|by itself|"
    r"room|is no|are no|is none|widen|hold|holds|meant|place|asked?|given|so often|so many|for ever)\b",
    re.IGNORECASE,
)


def all_commands(group: click.Group = cli, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield prefix + name, command
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{prefix}{name} ")


COMMANDS = dict(all_commands())


def test_the_list_of_commands_has_one_complete_line_per_command() -> None:
    lines = invoke("--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("..." in line for line in lines if "Usage:" not in line)
    for name, command in cli.commands.items():
        [line] = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.split(None, 1)[1] == command.short_help
    sections = [line.rstrip(":") for line in lines if re.fullmatch(r"[A-Z][a-z]+:", line)]
    assert sections == ["Options", "Count", "Weights", "Divide", "Inspect", "Operate"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_complete_summary_and_description(name: str) -> None:
    command = COMMANDS[name]
    assert command.short_help is not None
    assert command.short_help.endswith(".")
    assert command.short_help[0].isupper()
    assert len(command.short_help) <= SHORT_HELP_LENGTH
    assert command.help is not None
    assert command.help.rstrip().endswith(".")
    for text in (command.short_help, command.help):
        assert PRIVATE_WORDS.search(text) is None


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help_of_complete_sentences_and_a_named_value(name: str) -> None:
    for option in COMMANDS[name].params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        assert option.help, option.name
        assert re.fullmatch(r"[^a-z].*\.(  \[.*\])?", option.help), option.help
        assert PRIVATE_WORDS.search(option.help) is None, option.help
        if not option.is_flag and not isinstance(option.type, click.Choice):
            assert option.metavar, option.name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_usage_line_has_brackets_around_optional_arguments(name: str) -> None:
    command = COMMANDS[name]
    usage = invoke(*name.split(), "--help").stdout.partition("\n\n")[0]
    for argument in command.params:
        if isinstance(argument, click.Argument):
            word = argument.make_metavar(click.Context(command)).strip("[].")
            assert (f"[{word}]" in usage) is not argument.required


@pytest.mark.parametrize("option", ["-v", "--verbose", "--log-format"])
def test_an_option_of_all_commands_after_the_command_is_an_error_that_names_its_place(option: str) -> None:
    shown = invoke("gc", option, code=2).stderr
    assert shown.rstrip().endswith(f"Error: {option} goes before the command: statsvc {option} gc")
    assert "No such option '--verbosity'" in invoke("gc", "--verbosity", code=2).stderr


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    program = tmp_path / "statsvc"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m statsvc "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def completions(line: str) -> list[str]:
        words = [word or "''" for word in line.split(" ")]
        script = (
            'eval "$(_STATSVC_COMPLETE=bash_source statsvc)"\n'
            f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}\n"
            "_statsvc_completion statsvc\n"
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run(
            ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert completions("statsvc we") == ["weights"]
    assert completions("statsvc weights --norm") == ["--normalize"]
    assert completions("statsvc weights --method median") == ["median_freq", "median_freq_global"]
    assert 'eval "$(_STATSVC_COMPLETE=bash_source statsvc)"' in invoke("--help").stdout


def completed(command: click.Command, parameter: str, text: str, **options: object) -> list[str]:
    context = click.Context(command)
    context.params.update(options)
    [option] = [option for option in command.params if option.name == parameter]
    return [item.value for item in option.shell_complete(context, text)]


def test_a_shell_completes_the_choices_of_parameters() -> None:
    weights = cli.commands["weights"]
    assert completed(weights, "method", "inverse") == ["inverse_freq", "inverse_eps"]
    assert completed(weights, "recipe", "erfnet") == ["erfnet-decoder", "erfnet-encoder"]
    assert completed(weights, "sampler", "rare") == ["rare_class"]
    for command in ("weights", "scan"):
        assert completed(cli.commands[command], "class_map", "citys") == ["cityscapes"]


def test_a_shell_completes_the_names_of_datasets(street_home: tuple[Path, Path], tmp_path: Path) -> None:
    home = str(street_home[1])
    for command in ("weights", "compare", "doctor", "versions", "scan"):
        assert completed(cli.commands[command], "name", "str", home=home) == ["street"]
    assert completed(cli.commands["weights"], "name", "x", home=home) == []
    assert completed(cli.commands["weights"], "name", "", home=str(tmp_path / "missing")) == []
    assert not (tmp_path / "missing").exists()
    assert completed(cli.commands["weights"], "name", "", database="nonsense") == []

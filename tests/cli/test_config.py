"""The configuration file, environment variables of options, and `statsvc config`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.command_line import invoke

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file in an empty home directory, which STATSVC_HOME names."""
    for name in ("STATSVC_DATABASE", "STATSVC_STORE", "STATSVC_CONFIG", "STATSVC_LOG_FORMAT"):
        monkeypatch.setenv(name, "")  # so that what a command of this process sets is undone, too
        monkeypatch.delenv(name)
    monkeypatch.setenv("STATSVC_HOME", str(tmp_path))
    return tmp_path / "statsvc.toml"


def origins(*arguments: str) -> dict[str, tuple[object, str]]:
    """Return (value, origin) by "command option" from `statsvc config --json`."""
    rows = json.loads(invoke(*arguments, "config", "--json").stdout)
    return {f"{row['command']} {row['name']}".strip(): (row["value"], row["origin"]) for row in rows}


def test_a_flag_takes_precedence_over_the_environment_and_the_environment_over_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file.write_text(
        f"""
        database = "postgresql+psycopg://me:se@cret@host/db?sslpassword=other"
        store = "{tmp_path / "of file"}"
        verbose = true
        [serve]
        port = 8001
        root = ["{tmp_path}"]
        runner = false
        host = "0.0.0.0"
        [runner]
        workers = 3
        """
    )
    monkeypatch.setenv("STATSVC_SERVE_HOST", "127.0.0.2")
    monkeypatch.setenv("STATSVC_RUNNER_WORKERS", "4")
    monkeypatch.setenv("STATSVC_SERVE_ALLOW_HOST", "one two")
    found = origins()
    text = str(file)
    assert found["serve port"] == (8001, text)
    assert found["serve root"] == ([str(tmp_path)], text)
    assert found["serve runner"] == (False, text)
    assert found["serve host"] == ("127.0.0.2", "STATSVC_SERVE_HOST")
    assert found["serve allow-host"] == (["one", "two"], "STATSVC_SERVE_ALLOW_HOST")
    assert found["runner workers"] == (4, "STATSVC_RUNNER_WORKERS")
    assert found["verbose"] == (True, text)
    assert found["store"] == (str(tmp_path / "of file"), text)
    assert found["home"] == (str(tmp_path), "STATSVC_HOME")
    assert found["serve quiet"] == ("3s", "default")
    assert found["database"][0] == "postgresql+psycopg://me:***@host/db?sslpassword=***"
    other = tmp_path / "other.toml"
    other.write_text("[serve]\nport = 8002\n")
    found = origins("--config", str(other))
    assert found["serve port"] == (8002, str(other))
    assert found["store"] == (str(tmp_path / "versions"), "default")


def test_the_file_of_the_home_that_a_flag_names_is_used_and_sets_options_of_any_command(
    file: Path, tmp_path: Path
) -> None:
    home = tmp_path / "other"
    home.mkdir()
    (home / "statsvc.toml").write_text("[datasets]\njson = true\n")
    assert json.loads(invoke("datasets", "--home", str(home)).stdout) == []
    file.write_text(f'database = "sqlite:///{home / "catalog.sqlite"}"\n[token.list]\njson = true\n')
    assert json.loads(invoke("token", "list").stdout) == []
    assert not (tmp_path / "catalog.sqlite").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[serve]\nportt = 1", "[serve] portt is unknown (did you mean 'port'?)"),
        ("[sreve]\nport = 1", "[sreve] is not a command (did you mean 'serve'?)"),
        ("[token.crate]\nname = 'a'", "[token.crate] is not a command (did you mean 'create'?)"),
        ("databse = 'a'", "databse is unknown (did you mean 'database'?)"),
        ("port = 1", "port is unknown"),
        ("[serve]\nport = 'many'", '[serve] port must be an integer from 0 to 65535, not "many".'),
        ("[serve]\nport = 65536", "[serve] port must be an integer from 0 to 65535, not 65536."),
        ("[scan]\nworkers = 0", "[scan] workers must be an integer from 1 to 1024, not 0."),
        ("[scan]\nmax-pixels = 'all'", '[scan] max-pixels must be an integer of at least 1, not "all".'),
        ("[scan]\nmax-removed = '10%'", '[scan] max-removed must be a number from 0 to 1, not "10%".'),
        ("[scan]\ndevice = 'gpu'", "[scan] device must be one of 'auto', 'cpu', 'cuda', not \"gpu\"."),
        ("[scan]\ndevice = 1", "[scan] device must be one of 'auto', 'cpu', 'cuda', not 1."),
        ("log-format = 'xml'", "log-format must be one of 'text', 'json', not \"xml\"."),
        ("[serve.port]\na = 1", "[serve] port must be a value, not a table"),
        ("home = '/a'", "home cannot be set in the home directory's own file"),
        ("[serve", "cannot be read"),
        ("[serve]\nport = true", "[serve] port must be an integer from 0 to 65535, not true"),
        ("[serve]\nport = 80.5", "[serve] port must be an integer from 0 to 65535, not 80.5"),
        ("[serve]\nport = [80]", "[serve] port must be an integer from 0 to 65535, not [80]"),
        ("[serve]\nport = 1979-05-27", 'not "1979-05-27"'),
        ("[serve]\nhost = ['a']", "[serve] host must be text in quotes or a number"),
        ("[serve]\nroot = '/tmp'", "[serve] root must be a list in brackets"),
        ("[serve]\nallow-host = ['a', ['b']]", "[serve] allow-host must be a list in brackets"),
        ("[serve]\naccess-log = 'yes'", "[serve] access-log must be true or false"),
        ('[serve]\nhost = "a\\u0000b"', "[serve] host must be text without null characters"),
        ('[serve]\n"a\\nb\\u001b" = 1', "[serve] a\\nb\\x1b is unknown"),
        pytest.param(f"a = {'[' * 20_000}", "cannot be read", id="deep nesting"),
        ("database = 5", "database must be text in quotes"),
        ("store = ['a']", "store must be text in quotes"),
        ("serve = 5", "serve is a command; write its options in a table [serve]"),
        ("[[serve]]\nport = 1", "serve is a command; write its options in a table [serve]"),
    ],
)
def test_an_invalid_file_is_an_error_that_names_the_file_and_the_entry(
    file: Path, content: str, message: str
) -> None:
    file.write_text(content)
    error = invoke("config", code=2).stderr
    assert message in error
    assert str(file) in error


def test_a_value_that_a_command_rejects_is_named_with_the_file_unless_another_place_sets_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[scan]\nevery = '7'\n")
    message = "statsvc: --every: '7' is not a duration; write a number and a unit, such as 90s, 10m, 1h or 2d"
    assert invoke("scan", str(tmp_path), code=2).stderr == f"{message}. It is set in {file}\n"
    assert invoke("scan", str(tmp_path), "--every=7", code=2).stderr == f"{message}\n"
    assert invoke("scan", str(tmp_path), "--every", "7", code=2).stderr == f"{message}\n"
    monkeypatch.setenv("STATSVC_SCAN_EVERY", "7")
    assert invoke("scan", str(tmp_path), code=2).stderr == f"{message}\n"


def test_a_byte_order_mark_is_skipped_and_other_encodings_are_errors(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[serve]\nport = 8001\n")
    assert origins()["serve port"] == (8001, str(file))
    file.write_bytes('[serve]\nhost = "ä"\n'.encode("latin-1"))
    assert f"{file} cannot be read: 'utf-8' codec" in invoke("config", code=2).stderr


def test_a_folder_is_not_read_as_the_configuration_file(file: Path, tmp_path: Path) -> None:
    file.mkdir()  # in the home directory, whose file is optional
    assert origins()["serve port"][1] == "default"
    assert "Is a directory" in invoke("--config", str(tmp_path), "config", code=2).stderr


def test_a_file_that_is_named_but_missing_is_an_error(file: Path) -> None:
    assert "cannot be read" in invoke("--config", str(file), "datasets", code=2).stderr

"""Dockerfile, docker-compose.yml and haproxy.cfg, checked without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker

from statsvc.cli import cli
from support.command_line import invoke

PROJECT = Path(__file__).parents[2]
COMPOSE = PROJECT / "docker-compose.yml"
DASK = {"worker": dask_worker.main, "scheduler": dask_scheduler.main}
SETTINGS = {
    "LABELS": "/data/labels",
    "POSTGRES_PASSWORD": "one",
    "STATSVC_PASSWORD": "two",
    "STATSVC_API_PASSWORD": "three",
}


def interpolate(text: str) -> str:
    """Interpolate `${NAME:-default}` and `${NAME:?message}` like Compose. Fail if a value is missing."""

    def value(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        setting = SETTINGS.get(name, "")
        assert setting or operator == ":-", f"{name}: {default}"
        return setting or default

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)


def compose_file() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(interpolate(COMPOSE.read_text()))
    return content


@pytest.fixture
def services() -> dict[str, Any]:
    services: dict[str, Any] = compose_file()["services"]
    return services


def test_the_compose_file_conforms_to_the_compose_specification() -> None:
    compose_spec = pytest.importorskip("compose_spec")
    without_anchors = json.dumps(compose_file())
    compose_spec.PyCompose.from_json(without_anchors).validate()


def test_only_the_proxy_publishes_a_port_on_loopback(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"proxy": ["127.0.0.1:8000:8000"]}
    assert not [name for name, service in services.items() if "network_mode" in service]
    networks = compose_file()["networks"]
    assert {name for name, network in networks.items() if not network.get("internal")} == {"edge"}


def test_a_role_reaches_only_what_it_needs(services: dict[str, Any]) -> None:
    members = {
        network: {name for name, service in services.items() if network in service["networks"]}
        for network in compose_file()["networks"]
    }
    assert members == {
        "catalog": {"postgres", "upgrade", "runner", "api1", "api2"},
        "dask": {"scheduler", "worker", "worker-gpu", "runner"},
        "front": {"api1", "api2", "proxy"},
        "edge": {"proxy"},
    }
    writable = {
        name
        for name, service in services.items()
        for volume in service.get("volumes", [])
        if isinstance(volume, str) and volume.startswith("versions:") and not volume.endswith(":ro")
    }
    assert writable == {"runner"}
    users = {
        name: re.findall(r"//(\w+):", service["environment"]["STATSVC_DATABASE"])[0]
        for name, service in services.items()
        if "STATSVC_DATABASE" in service.get("environment", {})
    }
    assert users == {
        "upgrade": "statsvc",
        "runner": "statsvc",
        "api1": "statsvc_api",
        "api2": "statsvc_api",
    }


def test_every_container_is_hardened_and_limited(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"]), name
        assert service["pids_limit"] <= 256, name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert "build" in service or re.search(r"@sha256:[0-9a-f]{64}$", service["image"]), name
    assert re.search(
        r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE
    )


def test_every_permanent_role_has_a_health_check_and_restarts(services: dict[str, Any]) -> None:
    permanent = {name: service for name, service in services.items() if name != "upgrade"}
    assert all("healthcheck" in service for service in permanent.values())
    assert {service["restart"] for service in permanent.values()} == {"unless-stopped"}
    assert {"postgres", "upgrade", "scheduler", "worker", "worker-gpu", "runner"} < set(services)
    assert services["api1"] == services["api2"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    for name, service in services.items():
        for dependency, options in service.get("depends_on", {}).items():
            healthy = options["condition"] == "service_healthy"
            assert not healthy or "healthcheck" in services[dependency], name


def test_secrets_come_from_the_environment_and_never_appear_on_a_command_line(
    services: dict[str, Any],
) -> None:
    text = COMPOSE.read_text()
    for secret in ("POSTGRES_PASSWORD", "STATSVC_PASSWORD", "STATSVC_API_PASSWORD"):
        uses = re.findall(rf"\$\{{{secret}[^}}]*\}}", text)
        assert uses
        assert all(":?" in use for use in uses)  # Compose does not start without a value
        value = SETTINGS[secret]
        assert not [name for name, service in services.items() if value in service.get("command", [])]
    documented = set(re.findall(r"^#?(\w+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", text)) == documented


def test_the_programs_in_the_image_accept_the_command_of_every_service(services: dict[str, Any]) -> None:
    commands = {name: service["command"] for name, service in services.items() if "build" in service}
    assert len(commands) == 7
    for program, *arguments in commands.values():
        if program == "statsvc":
            name, *options = [argument for argument in arguments if argument != "-v"]
            command: Any = cli.commands[name]
        else:
            assert program == "dask"
            name, *options = arguments
            command = DASK[name]
        # /labels exists in the containers only.
        options = [str(PROJECT) if option == "/labels" else option for option in options]
        command.make_context(name, options).close()


def test_the_image_installs_existing_extras_and_copies_existing_files() -> None:
    text = (PROJECT / "Dockerfile").read_text()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert extras is not None
    assert {"workers", "service", "postgres", "s3"} <= set(extras[1].split(","))
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["statsvc"]
    # The build copies all files of its context.
    context = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert {name for names in copied for name in names.split()} == context
    assert all((PROJECT / name).exists() for name in context)


def test_haproxy_accepts_its_configuration() -> None:
    addresses = {"BIND": "127.0.0.1:8000", "API1": "127.0.0.1:8001", "API2": "127.0.0.1:8002"}
    process = subprocess.run(
        ["haproxy", "-c", "-f", str(PROJECT / "deploy" / "haproxy.cfg")],
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin", **addresses},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("role", ["server", "runner"])
def test_systemd_accepts_the_unit_and_its_command_exists(role: str, tmp_path: Path) -> None:
    unit = PROJECT / "deploy" / "systemd" / f"statsvc-{role}.service"
    text = unit.read_text()
    [start] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, *arguments = start.split()
    invoke(*arguments, "--help")  # fails for an unknown command or option
    copy = tmp_path / unit.name
    copy.write_text(text.replace(program, "/bin/true"))
    for check in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        process = subprocess.run(
            ["systemd-analyze", *check, str(copy)], capture_output=True, text=True, timeout=60
        )
        assert (process.returncode, process.stderr) == (0, ""), process.stdout + process.stderr

"""The image and the composition of containers: what is promised of them, read without a Docker engine."""

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

PROJECT = Path(__file__).parents[2]
COMPOSE = PROJECT / "docker-compose.yml"
DASK = {"worker": dask_worker.main, "scheduler": dask_scheduler.main}
SETTINGS = {
    "LABELS": "/data/labels",
    "POSTGRES_PASSWORD": "one",
    "S3_ACCESS_KEY": "two",
    "S3_SECRET_KEY": "three",
}


def filled(text: str) -> str:
    """Fill in `${NAME:-default}` and `${NAME:?message}` as Compose does; fail where one is needed."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        found = SETTINGS.get(name, "")
        assert found or kind == ":-", f"{name}: {rest}"
        return found or rest

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)


def composition() -> dict[str, Any]:
    return yaml.safe_load(filled(COMPOSE.read_text()))


@pytest.fixture
def services() -> dict[str, Any]:
    return composition()["services"]


def test_the_composition_is_one_by_the_specification() -> None:
    compose_spec = pytest.importorskip("compose_spec")
    plain = json.dumps(composition())  # without anchors
    compose_spec.PyCompose.from_json(plain).validate()


def test_only_the_proxy_publishes_a_port_and_on_loopback(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"proxy": ["127.0.0.1:8000:8000"]}
    assert not [name for name, service in services.items() if "network_mode" in service]
    inside = {name for name, service in services.items() if "inside" in service["networks"]}
    assert inside == set(services) - {"proxy"}
    assert composition()["networks"]["inside"] == {"internal": True}


def test_every_role_that_stays_is_looked_after(services: dict[str, Any]) -> None:
    stay = {name: service for name, service in services.items() if name != "upgrade"}
    assert all("healthcheck" in service for service in stay.values())
    assert {service["restart"] for service in stay.values()} == {"unless-stopped"}
    assert {"postgres", "s3", "upgrade", "scheduler", "worker", "worker-gpu", "runner"} < set(services)
    assert services["api1"] == services["api2"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[needed], name


def test_secrets_come_from_the_environment_and_lie_on_no_command_line(services: dict[str, Any]) -> None:
    text = COMPOSE.read_text()
    for secret in ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        uses = re.findall(rf"\$\{{{secret}[^}}]*\}}", text)
        assert uses
        assert all(":?" in use for use in uses)  # compose refuses to start without it
        value = SETTINGS[secret]
        assert not [name for name, service in services.items() if value in service.get("command", [])]
    named = set(re.findall(r"^#?(\w+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", text)) == named


def test_every_command_is_one_that_the_program_in_the_image_takes(services: dict[str, Any]) -> None:
    ours = {name: service["command"] for name, service in services.items() if "build" in service}
    assert len(ours) == 7
    for program, *arguments in ours.values():
        if program == "statsvc":
            name, *rest = [part for part in arguments if part != "-v"]
            command: Any = cli.commands[name]
        else:
            assert program == "dask"
            name, *rest = arguments
            command = DASK[name]
        # /labels is in the image's file system only.
        rest = [str(PROJECT) if part == "/labels" else part for part in rest]
        command.make_context(name, rest).close()


def test_extras_in_the_image_are_extras_of_the_project() -> None:
    text = (PROJECT / "Dockerfile").read_text()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert extras is not None
    assert {"workers", "service", "postgres", "s3"} <= set(extras[1].split(","))
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["statsvc"]
    # What is copied into the build is what the build's context holds.
    kept = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert {name for names in copied for name in names.split()} == kept
    assert all((PROJECT / name).exists() for name in kept)


def test_haproxy_takes_its_configuration() -> None:
    addresses = {"BIND": "127.0.0.1:8000", "API1": "127.0.0.1:8001", "API2": "127.0.0.1:8002"}
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(PROJECT / "deploy" / "haproxy.cfg")],
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin", **addresses},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr

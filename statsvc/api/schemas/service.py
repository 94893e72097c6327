"""Responses of `/`, `/healthz` and `/readyz`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from statsvc.api.schemas.base import ResponseModel, example


class Index(ResponseModel):
    """Where to start."""

    model_config = example({"name": "statsvc", "paths": ["/weights", "/methods", "/datasets", "/docs"]})

    name: str = Field(description="name of the service")
    paths: list[str] = Field(description="paths to start with")


class Health(ResponseModel):
    """The process accepts requests."""

    model_config = example({"status": "ok"})

    status: Literal["ok"]


class Readiness(ResponseModel):
    """Whether the server can do its work."""

    model_config = example(
        {"status": "ok", "catalog": "ok", "age": None, "store": "ok", "runners": "ok", "scans": "ok"}
    )

    status: Literal["ok"]
    catalog: str = Field(description="`ok`, or why the catalog cannot be used")
    age: int | None = Field(
        description="seconds since the catalog was read, if it does not answer; null while it answers"
    )
    store: str = Field(description="`ok`, or why the version store did not respond to the last request")
    runners: str = Field(
        description="`ok`, `unknown` just after the start, or that no runner is up although there is work"
    )
    scans: str = Field(
        description="`ok`, `unknown` just after the start, or for how many datasets the newest scan failed"
    )

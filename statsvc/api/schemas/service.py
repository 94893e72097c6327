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
    """The catalog can be used."""

    model_config = example({"status": "ok", "store": "ok"})

    status: Literal["ok"]
    store: str = Field(description="`ok`, or why the version store did not respond to the last request")

"""What the response models have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ResponseModel(BaseModel):
    """A JSON object in a response. A field with a default can be missing."""

    model_config = ConfigDict(populate_by_name=True)


def example(value: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a model that is documented with one example."""
    return ConfigDict(populate_by_name=True, json_schema_extra={"examples": [value]})


def examples(model: type[ResponseModel]) -> list[dict[str, Any]]:
    """Return the examples of a model."""
    extra = model.model_config.get("json_schema_extra")
    return extra["examples"] if isinstance(extra, dict) else []  # type: ignore[return-value]

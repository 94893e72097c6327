"""What the response models have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """A JSON object of a response. A field with a default may be missing."""

    model_config = ConfigDict(populate_by_name=True)


def example(value: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a model that is documented with one example."""
    return ConfigDict(populate_by_name=True, json_schema_extra={"examples": [value]})

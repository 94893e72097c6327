"""The body of every error (RFC 9457)."""

from __future__ import annotations

from pydantic import Field

from statsvc.api.schemas.base import ResponseModel


class ParameterProblem(ResponseModel):
    """A rejected parameter, header or field of the request body."""

    parameter: str = Field(description="name of the parameter; `splits.train.0` is a path into the body")
    message: str = Field(description="why the value was rejected and which values are valid")


class Problem(ResponseModel):
    """A problem document (RFC 9457), sent as `application/problem+json`."""

    type: str = Field(description="stable identifier of the kind of problem, such as `/problems/not-found`")
    title: str = Field(description="short description of the kind of problem")
    status: int = Field(description="HTTP status code")
    detail: str = Field(description="what happened, why, and what to do next")
    errors: list[ParameterProblem] = Field(
        description="the rejected parameters; empty unless `type` is `/problems/invalid-parameter`"
    )
    schema_valid: bool = Field(
        False,
        description="true if the request conforms to this document, and its values contradict each other or "
        "the dataset; left out otherwise",
    )

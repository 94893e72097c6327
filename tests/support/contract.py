"""Checks of HTTP responses against the OpenAPI document of the server that sent them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx2
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient

if TYPE_CHECKING:
    from fastapi import FastAPI

PROBLEM = "application/problem+json"
NOT_DOCUMENTED = re.compile(r"/(openapi\.json|docs.*|static-offline-docs/.*|page/.*)")
"""Paths that OpenAPI does not describe: the document itself and static files."""

RAISED_BY_TESTS = re.compile(r"/(boom|raises)")
"""Routes that tests add to an application to raise an error."""


class Contract:
    """The OpenAPI document of a server, to validate its responses against."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._schemas = {name: _closed(schema) for name, schema in document["components"]["schemas"].items()}
        # Literal paths come before templates: /datasets/{name} also matches the text of some other path.
        templates = sorted(document["paths"], key=lambda path: path.count("{"))
        self._templates = [(re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path)), path) for path in templates]

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """Return the operation that serves a request, or None if there is none."""
        for pattern, template in self._templates:
            operation = self.document["paths"][template].get(method.lower())
            if operation is not None and pattern.fullmatch(path):
                return dict(operation)
        return None

    def validate(self, schema: dict[str, Any], value: Any) -> None:
        """Fail unless a value conforms to a schema of the document and has no undocumented field."""
        definitions = {"components": {"schemas": self._schemas}}
        Draft202012Validator({**_closed(schema), **definitions}).validate(value)

    def check(self, response: httpx2.Response) -> None:
        """Fail unless the document describes a response: its status, media type and body."""
        path = response.request.url.raw_path.partition(b"?")[0].decode()
        if NOT_DOCUMENTED.fullmatch(path) or RAISED_BY_TESTS.fullmatch(path):
            return
        method = response.request.method
        operation = self.operation("GET" if method == "HEAD" else method, path)
        where = f"{method} {path}: {response.status_code}"
        if operation is None:
            assert response.status_code in (401, 403, 404, 405, 421), f"{where} for an undocumented operation"
            self._check_problem(response, {}, where)
            return
        documented = operation["responses"].get(str(response.status_code))
        assert documented is not None, f"{where} is not documented"
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if method == "HEAD" or "content" not in documented:
            assert response.content == b"", f"{where} has a body"
            return
        assert media_type in documented["content"], f"{where} {media_type} is not documented"
        content = documented["content"][media_type]
        if media_type == PROBLEM:
            self._check_problem(response, content, where)
        elif media_type == "application/json":
            self.validate(content["schema"], response.json())
        elif media_type == "text/event-stream":
            for event in re.findall("^data: (.*)$", response.text, re.MULTILINE):
                self.validate({"$ref": "#/components/schemas/Job"}, json.loads(event))

    def _check_problem(self, response: httpx2.Response, content: dict[str, Any], where: str) -> None:
        if response.request.method == "HEAD":
            return
        assert response.headers["content-type"] == PROBLEM, where
        body = response.json()
        self.validate({"$ref": "#/components/schemas/Problem"}, body)
        kind = body["type"].removeprefix("/problems/")
        assert kind in content.get("examples", {kind: None}), f"{where} {kind} is not documented"


def _closed(schema: Any) -> Any:
    """Return a schema whose objects have no other properties than the documented ones."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


class ApiClient(TestClient):
    """A client of an application in this process that checks every response against OpenAPI."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        super().__init__(app, base_url="http://127.0.0.1", **options)
        self.contract = Contract(app.openapi())

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request and check its response."""
        response = super().send(request, **options)
        self.contract.check(response)
        return response


def checking_client(url: str, **options: Any) -> httpx2.Client:
    """Return a client of a real server that checks every response against the server's OpenAPI document."""
    contract = Contract(httpx2.get(f"{url}/openapi.json").raise_for_status().json())

    def check(response: httpx2.Response) -> None:
        response.read()
        contract.check(response)

    return httpx2.Client(base_url=url, event_hooks={"response": [check]}, **options)

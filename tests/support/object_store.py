"""A local S3 server: moto's, in a separate process on loopback."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "statsvc-test"


@dataclass(frozen=True)
class S3Server:
    """A running server.

    environment  the variables with which an S3 client in a subprocess connects to it
    """

    url: str
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }

    def boto(self) -> Any:
        """Return a client of boto3, which accesses the objects independently of statsvc."""
        import boto3  # type: ignore[import-untyped]

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


@contextlib.contextmanager
def s3_server(port: int | None = None) -> Iterator[S3Server]:
    """Run a server with the empty bucket `BUCKET`, by default on a free port."""
    port = port or free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "moto's server exited"
                assert time.monotonic() < deadline, "moto's server does not respond"
                time.sleep(0.05)
        server = S3Server(url, process.pid)
        server.boto().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.kill()
        process.wait()


_PROGRAM = """
import sys
from moto.server import create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

class Quiet(WSGIRequestHandler):
    def log_request(self, *_): ...

# S3 only: detecting the AWS service of a request takes longer than processing the request.
app = create_backend_app("s3")
run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True, request_handler=Quiet)
"""


@contextlib.contextmanager
def s3_environment(server: S3Server) -> Iterator[None]:
    """Set the environment variables with which this process and its subprocesses connect to the server."""
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

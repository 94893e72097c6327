"""Responses of `/jobs`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from statsvc.api.schemas.base import ResponseModel, example

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
TIME = "ISO 8601, UTC, milliseconds"


class Failure(ResponseModel):
    """A sample that could not be read."""

    path: str = Field(description="path relative to the source")
    error: str = Field(description="why the sample could not be read")


class Progress(ResponseModel):
    """Progress of a job, in samples. Empty until a worker has started the job."""

    stage: str | None = Field(None, description="what the worker is doing, such as `listing` or `counting`")
    total: int | None = Field(None, description="samples listed")
    done: int | None = Field(None, description="reused, counted and failed samples")
    reused: int | None = Field(None, description="unchanged samples, taken from the previous version")
    counted: int | None = Field(None, description="samples counted by this job")
    recovered: int | None = Field(
        None,
        description="samples taken from checkpoints, of an earlier attempt or of the pilot of an estimate",
    )
    failed: int | None = Field(None, description="samples that could not be read")
    removed: int | None = Field(None, description="samples of the previous version that no longer exist")
    ignored: int | None = Field(None, description="changed paths that do not belong to any sample")
    pixels: int | None = Field(None, description="pixels counted by this attempt")
    pixels_per_second: int | None = Field(None, description="counting rate of this attempt")
    selection: list[str] | None = Field(
        None, description="which files are counted and which are skipped, as text; left out if unknown"
    )


class JobSummary(ResponseModel):
    """State of a job."""

    id: str = Field(description="job id")
    state: State
    version: int | None = Field(description="version that the job published; null if it published none")
    error: str | None = Field(description="why the job failed; otherwise null")
    created_at: str = Field(description=f"when the job was queued ({TIME})")
    finished_at: str | None = Field(description=f"when the job ended ({TIME}); null until then")


JOB = {
    "id": "1f0b2c52a6a24d1e8f3f5e0c6f1f7a3b",
    "dataset": "camvid",
    "state": "running",
    "attempt": 1,
    "max_attempts": 5,
    "full": False,
    "paths": None,
    "max_removed": 0.1,
    "estimate": None,
    "failed": 0,
    "failures": [],
    "warnings": [],
    "progressed_at": "2026-03-01T12:00:09.500Z",
    "progress": {
        "stage": "counting",
        "total": 367,
        "done": 120,
        "reused": 0,
        "counted": 120,
        "recovered": 0,
        "failed": 0,
        "removed": 0,
        "ignored": 0,
        "pixels": 20736000,
        "pixels_per_second": 410000000,
    },
    "error": None,
    "version": None,
    "created_at": "2026-03-01T12:00:00.000Z",
    "started_at": "2026-03-01T12:00:01.250Z",
    "finished_at": None,
    "request_id": "5f0c8a1be37d4c26",
}


class EstimateRequest(ResponseModel):
    """How many samples a job draws and counts."""

    samples: int | None = Field(None, description="number of samples; left out if not requested")
    relative_error: float | None = Field(
        None, description="error of the shares that the number of samples follows from; left out otherwise"
    )
    confidence: float | None = Field(None, description="confidence of that error; left out without it")


class Job(ResponseModel):
    """A job: a scan that counts the samples of a dataset that have changed."""

    model_config = example(JOB)

    id: str = Field(description="job id")
    dataset: str = Field(description="name of the dataset")
    state: State
    attempt: int = Field(description="number of the current attempt; 0 while the job is queued")
    max_attempts: int = Field(description="attempts after which the job fails")
    full: bool = Field(description="whether unchanged samples are counted again, too")
    paths: int | None = Field(
        description="number of changed paths that the job inspects; null if it lists the whole source"
    )
    max_removed: float = Field(
        description="share of samples that may be gone or newly unreadable before the job fails, 0 to 1"
    )
    estimate: EstimateRequest | None = Field(
        description="size of the sample that the job counts; null if it counts all samples"
    )
    failed: int = Field(description="samples that could not be read")
    failures: list[Failure] = Field(description="some of the samples that could not be read")
    warnings: list[str] = Field(
        description="what failed during the job and was replaced, such as a worker that hung; the newest 20"
    )
    progressed_at: str | None = Field(description=f"when the progress changed last ({TIME}); null until then")
    progress: Progress
    error: str | None = Field(description="why the job or its last attempt failed; otherwise null")
    version: int | None = Field(description="version that the job published; null if it published none")
    created_at: str = Field(description=f"when the job was queued ({TIME})")
    started_at: str | None = Field(description=f"when the first attempt started ({TIME}); null until then")
    finished_at: str | None = Field(description=f"when the job ended ({TIME}); null until then")
    request_id: str | None = Field(
        description="X-Request-ID of the request that queued the job; null if it was not queued over HTTP"
    )


class JobPage(ResponseModel):
    """A page of jobs, newest first."""

    model_config = example({"jobs": [JOB], "next": None})

    jobs: list[Job]
    next: str | None = Field(description="value of `before` for the next page; null on the last page")

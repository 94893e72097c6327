"""`statsvc jobs`: list the jobs; show, follow or cancel one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._jobs import job_to_dict
from statsvc.cli._options import json_option, limit_option, print_json
from statsvc.cli._progress import show_progress, summary
from statsvc.cli._tables import print_fields, print_table
from statsvc.common.one_line import one_line

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Job

POLL_SECONDS = 0.25
"""Time between two reads of a job that is followed."""

COLUMNS = ("job", "dataset", "state", "version", "created")


@click.command(short_help="List, follow or cancel jobs.")
@click.argument("job_id", required=False, metavar="[JOB]")
@click.option("--follow", is_flag=True, help="Show the progress of JOB until it ends.")
@click.option("--cancel", is_flag=True, help="Cancel JOB. The current version does not change.")
@click.option("--dataset", metavar="NAME", help="List only the jobs of this dataset.")
@click.option(
    "--state",
    metavar="STATE",
    help="List only jobs in this state: queued, running, succeeded, failed or cancelled.",
)
@limit_option("jobs")
@json_option
@home_options
def jobs(
    job_id: str | None,
    follow: bool,
    cancel: bool,
    dataset: str | None,
    state: str | None,
    limit: int,
    as_json: bool,
    options: HomeOptions,
) -> None:
    """List the newest jobs, or show, follow or cancel one job.

    With --follow the exit code is 1 if the job failed, was cancelled, or could not read a label map.
    """
    if job_id is None and (follow or cancel):
        raise click.UsageError(
            "Name the job: statsvc jobs JOB --follow or --cancel. List the jobs with: statsvc jobs"
        )
    if job_id is not None and (dataset or state):
        raise click.UsageError("--dataset and --state filter the list of jobs. Omit them, or omit JOB.")
    with options.open() as (_home, catalog):
        from statsvc.store.catalog import jobs as queue

        if job_id is None:
            only = None if dataset is None else catalog.dataset(dataset)
            recent = queue.recent(catalog, only, limit, state=state)
            _list([job_to_dict(job, name) for job, name in recent], as_json)
            return
        if cancel:
            queue.cancel(catalog, job_id)
            echo(f"Job {job_id} is cancelled. The next job reuses what it has counted.", err=True)
        job = _follow(catalog, job_id) if follow else queue.get(catalog, job_id)
        description = job_to_dict(job, catalog.dataset_by_uid(job.dataset_uid).name)
        if as_json:
            print_json(description)
        else:
            _show(description)
        if follow and (job.state != "succeeded" or job.progress.get("failed")):
            raise click.exceptions.Exit(1)


def _follow(catalog: Catalog, job_id: str) -> Job:
    """Show a job's progress until it ends and return it. Ctrl-C ends the display, not the job."""
    from statsvc.store.catalog import jobs as queue

    job = queue.get(catalog, job_id)
    try:
        with show_progress(lambda: _progress(queue.get(catalog, job_id))):
            while not job.ended:
                time.sleep(POLL_SECONDS)
                job = queue.get(catalog, job_id)
    except KeyboardInterrupt:
        echo(
            f"statsvc: job {job_id} is still running. Cancel it with: statsvc jobs {job_id} --cancel",
            err=True,
        )
        raise click.exceptions.Exit(1) from None
    return job


def _progress(job: Job) -> dict[str, Any]:
    """Return the progress of a job; for a queued job, the reason why it waits."""
    if job.state == "queued":
        return {"stage": "waiting for a runner (statsvc serve or statsvc runner)"}
    return dict(job.progress)


def _show(description: dict[str, Any]) -> None:
    progress = description["progress"]
    warnings = description.pop("warnings")
    print_fields(description | {"progress": summary(progress)})
    for warning in warnings:
        echo(one_line(f"  warning: {warning}"))
    for failure in progress.get("failures", []):
        echo(one_line(f"  {failure['path']}: {failure['error']}"))


def _list(descriptions: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(descriptions)
    elif descriptions:
        print_table(
            COLUMNS,
            [(job["id"], *(job[column] for column in COLUMNS[1:])) for job in descriptions],
        )
        for job in descriptions:
            if job["error"]:
                echo(f"{job['id']}: {job['error']}")
    else:
        echo("There are no jobs.", err=True)

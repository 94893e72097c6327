"""`statsvc jobs`: the list, one job, following it and cancelling it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._common import home_options, json_option, opened, print_json
from statsvc.cli._progress import shown, speed
from statsvc.cli._tables import iso, print_table, text_of

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Job

FOLLOW_SECONDS = 0.25


@click.command()
@click.argument("job_id", required=False, metavar="[JOB]")
@click.option("--follow", is_flag=True, help="Show how far JOB is until it ends.")
@click.option("--cancel", is_flag=True, help="End JOB; the last version stays.")
@click.option("--dataset", metavar="NAME", help="Only jobs of that dataset.")
@click.option("--state", metavar="STATE", help="Only queued, running, succeeded, failed or cancelled ones.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
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
    home: str | None,
    database: str | None,
    store: str | None,
) -> None:
    """List the newest jobs; or show, follow or cancel one.

    Exit code 1 where the job that was followed failed, was cancelled, or could not read a label map.
    """
    if job_id is None and (follow or cancel):
        raise click.UsageError(
            "name the job: statsvc jobs JOB --follow, or --cancel; list them: statsvc jobs"
        )
    if job_id is not None and (dataset or state):
        raise click.UsageError("--dataset and --state choose from the list; leave JOB out")
    with opened(home, database, store) as (_place, catalog):
        from statsvc.store.catalog import jobs as queue

        if job_id is None:
            chosen = None if dataset is None else catalog.dataset(dataset)
            found = queue.recent(catalog, chosen, limit, state=state)
            _list([_described(job, name) for job, name in found], as_json)
            return
        if cancel:
            queue.cancel(catalog, job_id)
            click.echo(f"job {job_id} is cancelled; what it counted is kept for the next one", err=True)
        job = _followed(catalog, job_id) if follow else queue.get(catalog, job_id)
        described = _described(job, catalog.dataset_by_uid(job.dataset_uid).name)
        if as_json:
            print_json(described)
        else:
            _show(described)
        if follow and (job.state != "succeeded" or job.progress.get("failed")):
            raise click.exceptions.Exit(1)


def _followed(catalog: Catalog, job_id: str) -> Job:
    """Show a job's progress until it ends. Ctrl-C ends the showing, not the job."""
    from statsvc.store.catalog import jobs as queue

    job = queue.get(catalog, job_id)
    try:
        with shown(lambda: _progress(queue.get(catalog, job_id))):
            while not job.ended:
                time.sleep(FOLLOW_SECONDS)
                job = queue.get(catalog, job_id)
    except KeyboardInterrupt:
        click.echo(f"statsvc: job {job_id} goes on; end it with: statsvc jobs {job_id} --cancel", err=True)
        raise click.exceptions.Exit(1) from None
    return job


def _progress(job: Job) -> dict[str, Any]:
    """Return how far a job is; while it is queued, what it waits for."""
    if job.state == "queued":
        return {"stage": "waiting for a runner to take it (statsvc serve, or statsvc runner)"}
    return dict(job.progress)


def _described(job: Job, dataset: str) -> dict[str, Any]:
    return {
        "id": job.id,
        "dataset": dataset,
        "state": job.state,
        "attempt": job.attempt,
        "version": job.version_number,
        "created": iso(job.created_at),
        "started": iso(job.started_at),
        "finished": iso(job.finished_at),
        "error": job.error,
        "progress": dict(job.progress),
    }


def _show(described: dict[str, Any]) -> None:
    progress = described.pop("progress")
    for key, value in described.items():
        click.echo(f"{key:<10} {text_of(value)}")
    click.echo(f"{'progress':<10} {speed(progress)}")
    for failure in progress.get("failures", []):
        click.echo(f"  {failure['path']}: {failure['error']}")


def _list(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no jobs", err=True)
        return
    print_table(
        ("job", "dataset", "state", "version", "created"),
        [(row["id"], row["dataset"], row["state"], row["version"], row["created"]) for row in found],
    )
    for row in found:
        if row["error"]:
            click.echo(f"{row['id']}: {row['error']}")

"""The jobs of a server."""

from __future__ import annotations

from typing import Any


class Jobs(list[dict[str, Any]]):
    """Jobs as `GET /jobs` describes them, newest first. A notebook shows a table with their progress."""

    def _repr_html_(self) -> str:
        from statsvc.weighting.display import html_table

        return html_table(
            f"{len(self)} job{'' if len(self) == 1 else 's'}",
            ("job", "dataset", "state", "label maps", "progress"),
            (
                (
                    job["id"],
                    job["dataset"],
                    job["state"],
                    "" if total is None else f"{done or 0:,} of {total:,}",
                    (done or 0) / total if total else 0.0,
                )
                for job in self
                for done, total in [(job["progress"].get("done"), job["progress"].get("total"))]
            ),
            [f"{job['id']}: {job['error']}" for job in self if job.get("error")],
        )

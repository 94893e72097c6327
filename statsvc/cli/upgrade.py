"""`statsvc upgrade`: create or upgrade the catalog's schema."""

from __future__ import annotations

import click

from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options


@click.command(short_help="Create or upgrade the catalog schema.")
@home_options
@click.option(
    "--api-role",
    metavar="ROLE",
    help="Give this existing PostgreSQL role what API servers need: everything but publishing versions and "
    "creating tokens.",
)
def upgrade(options: HomeOptions, api_role: str | None) -> None:
    """Create or upgrade the catalog's tables.

    Only PostgreSQL needs this command. An SQLite catalog is upgraded automatically.
    """
    from statsvc.store.catalog.engine import SCHEMA, upgrade_url

    upgrade_url(options.resolve().database, api_role)
    echo(f"The catalog has schema {SCHEMA}.", err=True)

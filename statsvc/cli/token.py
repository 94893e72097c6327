"""`statsvc token`: making, listing and revoking what servers ask for."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._common import home_options, json_option, opened, print_json
from statsvc.cli._tables import iso, print_table

if TYPE_CHECKING:
    from statsvc.store.catalog.tokens import Token


@click.group()
def token() -> None:
    """Make, list and revoke the tokens that a server asks for."""


@token.command()
@click.option(
    "--scope",
    type=click.Choice(["read", "write", "admin"]),
    required=True,
    help="read: ask; write: register, recompute and configure as well; admin: delete as well.",
)
@click.option("--name", help="Whom it is for; stands in the log.  [default: your user name]")
@json_option
@home_options
def create(
    scope: str, name: str | None, as_json: bool, home: str | None, database: str | None, store: str | None
) -> None:
    """Make a token and print it, once: only its digest is kept."""
    with opened(home, database, store) as (_place, catalog):
        from statsvc.store.catalog import tokens

        made, secret = tokens.create(catalog, scope, name or getpass.getuser())
    if as_json:
        print_json({"id": made.id, "name": made.name, "scope": made.scope, "token": secret})
    else:
        click.echo(secret)
        click.echo(
            f"token {made.id} for {made.name}, scope {made.scope}; it is not shown again. Clients take it "
            "from STATSVC_TOKEN or send: Authorization: Bearer TOKEN",
            err=True,
        )


@token.command("list")
@json_option
@home_options
def list_tokens(as_json: bool, home: str | None, database: str | None, store: str | None) -> None:
    """List all tokens, without their secrets."""

    def row(one: Token) -> tuple[Any, ...]:
        return one.id, one.name, one.scope, iso(one.created_at), iso(one.revoked_at)

    with opened(home, database, store) as (_place, catalog):
        from statsvc.store.catalog import tokens

        found = tokens.all_tokens(catalog)
    columns = ("id", "name", "scope", "created", "revoked")
    if as_json:
        print_json([dict(zip(columns, row(one), strict=True)) for one in found])
    elif found:
        print_table(columns, [row(one) for one in found])
    else:
        click.echo("no tokens yet; make one with: statsvc token create --scope write", err=True)


@token.command()
@click.argument("token_id", metavar="ID")
@home_options
def revoke(token_id: str, home: str | None, database: str | None, store: str | None) -> None:
    """Revoke token ID, for ever; servers refuse it within a second."""
    with opened(home, database, store) as (_place, catalog):
        from statsvc.store.catalog import tokens

        revoked = tokens.revoke(catalog, token_id)
    click.echo(f"token {revoked.id} of {revoked.name} is revoked", err=True)

"""`statsvc token`: create, list and revoke the tokens that a server accepts."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._echo import echo
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, print_json
from statsvc.cli._tables import iso, print_table

if TYPE_CHECKING:
    from statsvc.store.catalog.tokens import Token

COLUMNS = ("id", "name", "scope", "created", "revoked")


@click.group(short_help="Create, list and revoke API tokens.")
def token() -> None:
    """Create, list and revoke the tokens that a server accepts."""


@token.command(short_help="Create a token and print it once.")
@click.option(
    "--scope",
    type=click.Choice(["read", "write", "admin"]),
    required=True,
    help="Allowed requests: read; write also registers, scans and configures; admin also deletes.",
)
@click.option("--name", metavar="LABEL", show_default="your user name", help="Label shown in the audit log.")
@json_option
@home_options
def create(scope: str, name: str | None, as_json: bool, options: HomeOptions) -> None:
    """Create a token and print it once. The catalog stores only its digest."""
    with options.open() as (_home, catalog):
        from statsvc.store.catalog import tokens

        created, secret = tokens.create(catalog, scope, name or getpass.getuser())
    if as_json:
        print_json({"id": created.id, "name": created.name, "scope": created.scope, "token": secret})
        return
    echo(secret)
    echo(
        f"Token {created.id} for {created.name} has scope {created.scope}. It is not shown again. "
        "Clients read it from STATSVC_TOKEN, or send the header: Authorization: Bearer TOKEN",
        err=True,
    )


@token.command("list", short_help="List tokens without their secrets.")
@json_option
@home_options
def list_tokens(as_json: bool, options: HomeOptions) -> None:
    """List all tokens without their secrets."""
    with options.open() as (_home, catalog):
        from statsvc.store.catalog import tokens

        rows = [_row(token) for token in tokens.all_tokens(catalog)]
    if as_json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    elif rows:
        print_table(COLUMNS, rows)
    else:
        echo("There are no tokens. Create one with: statsvc token create --scope write", err=True)


def _row(token: Token) -> tuple[Any, ...]:
    return token.id, token.name, token.scope, iso(token.created_at), iso(token.revoked_at)


@token.command(short_help="Revoke a token permanently.")
@click.argument("token_id", metavar="ID")
@home_options
def revoke(token_id: str, options: HomeOptions) -> None:
    """Revoke token ID permanently. Servers reject it within a second."""
    with options.open() as (_home, catalog):
        from statsvc.store.catalog import tokens

        revoked = tokens.revoke(catalog, token_id)
    echo(f"Token {revoked.id} of {revoked.name} is revoked.", err=True)

"""What a shell offers for completion: the choices of a parameter, and the names of datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from statsvc.store import home as homes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import click
    from click.shell_completion import CompletionItem

    Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_choices(choices: Sequence[str], *, files: bool = False) -> Completion:
    """Return a completion of these words; with `files`, of paths where no word matches.

    The command checks the value itself, because its messages suggest the nearest word.
    """

    def complete(_context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        items = [CompletionItem(choice) for choice in choices if choice.startswith(text)]
        return items or ([CompletionItem(text, type="file")] if files else [])

    return complete


def complete_dataset(context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
    """Complete the name of a dataset in the catalog; nothing where the catalog cannot be read."""
    from click.shell_completion import CompletionItem

    options = {name: context.params.get(name) for name in ("home", "database", "store")}
    try:
        from statsvc.store.catalog.catalog import Catalog

        home = homes.resolve(**options)
        sqlite_file = home.database.partition("sqlite:///")[2]
        if sqlite_file and not Path(sqlite_file).exists():
            return []  # opening the catalog would create it
        catalog = Catalog.open(home.database)
        try:
            names = [dataset.name for dataset in catalog.datasets()]
        finally:
            catalog.close()
    except Exception:  # noqa: BLE001 - an error message would be written into the command line
        return []
    return [CompletionItem(name) for name in names if name.startswith(text)]

"""`statsvc split`: divide a dataset into folds or parts that represent every class."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from statsvc.cli._answers import open_cached_table
from statsvc.cli._completion import complete_dataset
from statsvc.cli._home import HomeOptions, home_options
from statsvc.cli._options import json_option, print_json, split_output_option
from statsvc.cli._parameters import parameter_options, pop_class_map_file, present_parameters
from statsvc.cli._tables import print_table
from statsvc.common.plurals import plural, plural_with_verb
from statsvc.dataset.groups import suggest
from statsvc.splitting.request import COUNT_PARAMETERS, DivisionRequest, SubsetRequest

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.dataset.table import Table
    from statsvc.splitting.result import SplitResult

_OUTPUT = "Write lists to a .json file (for folds: nnU-Net's splits_final.json), a .csv file or a folder."


@click.command(short_help="Divide a dataset into stratified parts.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@click.option("--folds", type=int, metavar="N", help="Number of folds of equal size.")
@click.option(
    "--parts", metavar="NAME=SHARE,…", help="Parts by share of the images: train=0.8,val=0.1,test=0.1."
)
@click.option(
    "--group",
    metavar="RULE",
    help="Never divide a group: NAME of a rule, folder:LEVEL, a CSV file of path and value, or an expression "
    "over the path, such as '^(\\w+?)_'.",
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", default=0, help="Another seed gives another division."
)
@parameter_options(*COUNT_PARAMETERS, without=("group",))
@split_output_option(_OUTPUT + " Nothing is registered then.")
@click.option("--dry-run", is_flag=True, help="Only print the report.")
@click.option("--replace", "replace_existing", is_flag=True, help="Replace splits of the same names.")
@json_option
@home_options
def split(
    name: str | None,
    folds: int | None,
    parts: str | None,
    group: str | None,
    seed: int,
    output: Path | None,
    dry_run: bool,
    replace_existing: bool,
    as_json: bool,
    options: HomeOptions,
    **params: Any,
) -> None:
    """Divide dataset NAME into folds or parts with the same share of every class.

    Each part gets its share of the pixels of every class, and of the images that contain it. The splits
    fold0_train, fold0_val, … or those named in --parts are registered, so that weights --split can use them.
    """
    from statsvc.splitting.divide import divide_dataset
    from statsvc.store.reconfigure import add_splits

    request = present_parameters(params)
    class_map = pop_class_map_file(request, None)
    with options.open() as (home, catalog):
        table = open_cached_table(home, catalog, name, None, class_map)
        grouping = None if group is None else table.configuration.grouping(group)
        result = divide_dataset(
            table,
            DivisionRequest.from_params(folds=folds, parts=parts, seed=seed, grouping=grouping, **request),
        )
        if output is not None:
            _write(result, output)
        elif not dry_run:
            dataset = catalog.dataset(table.dataset)
            record = add_splits(
                catalog, home.store, dataset, result.configured(), replace_existing=replace_existing
            )
            assert record is not None
            click.echo(
                f"{plural(len(result.splits()), 'split')} registered in version {record.number} of "
                f"{dataset.name}",
                err=True,
            )
    if group is None:
        _suggest_groups(table, result)
    if as_json:
        print_json(result.report)
    else:
        _print_division(result)


def _suggest_groups(table: Table, result: SplitResult) -> None:
    """Print a group rule of the dataset, or one that suits the paths, where images were divided singly."""
    suggested = suggest([path for paths in result.parts.values() for path in paths])
    rule = next(iter(table.configuration.groups), None)
    if rule is None and suggested:
        rule = next(iter(suggested.values())).describe()
    if rule is not None:
        click.echo(
            f"statsvc: images of one group may be in several parts; to keep groups together, add --group "
            f"{shlex.quote(rule)}",
            err=True,
        )


@click.command(short_help="Choose a subset with wanted class shares.")
@click.argument("name", shell_complete=complete_dataset, required=False)
@click.option("--images", type=int, metavar="N", required=True, help="Number of images to choose.")
@click.option(
    "--target",
    metavar="TARGET",
    default="natural",
    help="Class shares: natural (as in the dataset), uniform, or CLASS=SHARE[,…].",
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", default=0, help="Another seed gives another subset."
)
@parameter_options(*COUNT_PARAMETERS)
@split_output_option("Write the list to a .json file, a .csv file or a folder. Nothing is registered then.")
@click.option(
    "--register",
    metavar="SPLIT",
    help="Register the subset as a split of this name.",
)
@click.option("--replace", "replace_existing", is_flag=True, help="Replace a split of the same name.")
@json_option
@home_options
def subset(
    name: str | None,
    images: int,
    target: str,
    seed: int,
    output: Path | None,
    register: str | None,
    replace_existing: bool,
    as_json: bool,
    options: HomeOptions,
    **params: Any,
) -> None:
    """Choose images of dataset NAME whose classes have wanted shares of the pixels.

    Prints the paths, unless --output writes them to a file.
    """
    from statsvc.splitting.subset import SUBSET, choose_subset
    from statsvc.store.reconfigure import add_splits

    request = present_parameters(params)
    class_map = pop_class_map_file(request, None)
    with options.open() as (home, catalog):
        table = open_cached_table(home, catalog, name, None, class_map)
        result = choose_subset(
            table, SubsetRequest.from_params(images=images, target=target, seed=seed, **request)
        )
        if output is not None:
            _write(result, output)
        if register is not None:
            splits = {register: result.configured()[SUBSET]}
            add_splits(
                catalog,
                home.store,
                catalog.dataset(table.dataset),
                splits,
                replace_existing=replace_existing,
            )
            click.echo(f"Split {register} registered in {table.dataset}", err=True)
    if as_json:
        print_json({**result.report, "paths": list(result.parts[SUBSET])})
        return
    for row in result.report["classes"]:
        click.echo(
            f"{row['name']}: {100 * row['share']:.2f} % (wanted {100 * row['target']:.2f} %, in the dataset "
            f"{100 * row['dataset_share']:.2f} %)",
            err=True,
        )
    if output is None and register is None:
        for path in result.parts[SUBSET]:
            click.echo(path)


def _write(result: SplitResult, output: Path) -> None:
    files = result.write(output)
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    click.echo(f"Written: {files[0]}{more}", err=True)


def _print_division(result: SplitResult) -> None:
    report = result.report
    print_table(
        ("class", "images", "worst part %", "random %", "bound %"),
        [
            (
                row["name"],
                row["images"],
                f"{100 * row['deviation']:.2f}",
                f"{100 * row['random_deviation']:.2f}",
                f"{100 * row['bound']:.2f}",
            )
            for row in report["classes"]
        ],
    )
    worst, random, bound = report["worst"], report["random"], report["bound"]
    sizes = ", ".join(f"{part['name']}: {part['images']}" for part in report["parts"])
    click.echo(f"Images: {sizes}", err=True)
    click.echo(
        f"Worst class: {worst['name']} in {worst['part']}, {100 * worst['deviation']:+.2f} % of its share; "
        f"random divisions: {100 * random['deviation']:.1f} %; no division is better than "
        f"{100 * bound['deviation']:.2f} %",
        err=True,
    )
    if report["groups"] is not None and report["groups"]["ungrouped"]:
        click.echo(
            f"statsvc: {plural_with_verb(report['groups']['ungrouped'], 'image', 'has', 'have')} no group, "
            "and may be in any part",
            err=True,
        )
    for entry in report["impossible"]:
        click.echo(f"statsvc: {entry['message']}", err=True)

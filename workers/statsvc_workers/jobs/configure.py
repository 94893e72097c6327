"""Complete the configuration of a dataset with what its first scan finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from statsvc.dataset import splits
from statsvc.dataset.num_classes import infer_num_classes, with_masks, with_source_names
from statsvc.errors import JobFailed
from statsvc.store.catalog.catalog import Stale
from statsvc_workers.sources import class_files
from statsvc_workers.sources.listing_errors import listing_failed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from statsvc.dataset.configuration import Configuration
    from statsvc.store.catalog.records import Dataset
    from statsvc_workers.jobs.attempt import Attempt
    from statsvc_workers.jobs.plan import Plan
    from statsvc_workers.sources.class_files import ClassFiles
    from statsvc_workers.sources.listing import Listing, Source


def read_class_files(
    attempt: Attempt, dataset: Dataset, source: Source, listing: Listing
) -> tuple[Dataset, ClassFiles]:
    """Read the class lists of a source before its first scan, and return them with the dataset.

    Colors that the label maps contain become the counting rule, which is stored in the catalog. Raises
    `SourceError`.
    """
    if dataset.current_number is not None and dataset.configuration.sampled_from is None:
        return dataset, class_files.ClassFiles()
    parent = attempt.settings.search_parent
    try:
        files = class_files.find(source.root, listing, search_parent=parent)
        while dataset.current_number is None:
            paths = list(listing.path)
            configuration = class_files.with_rule(dataset.configuration, files, source.root, paths)
            configuration = with_masks(configuration, listing.class_names)
            if configuration == dataset.configuration:
                break
            try:
                dataset = attempt.catalog.configure_unversioned(dataset, configuration)
            except Stale as stale:
                dataset = stale.dataset
    except OSError as error:
        raise listing_failed(source.root, error) from error
    return dataset, files


def complete_configuration(plan: Plan, class_id: NDArray[np.int64], dataset: Dataset) -> Configuration:
    """Return a dataset's configuration; the first scan adds the splits, class names and number of classes.

    After an estimate, the first scan of all samples does so again, and only it infers the number of classes.

    class_id  int64 [k], ascending raw ids of the new version
    dataset   the dataset as it is now, which may have been reconfigured since the plan was made

    Raises `JobFailed` where the source of the dataset is no longer the one that was counted.
    """
    counted = plan.dataset
    if (dataset.source, dataset.pattern) != (counted.source, counted.pattern):
        raise JobFailed(
            f"the source of {dataset.name} was changed to {dataset.source} with "
            f"{dataset.pattern or 'a pattern to be detected'} while {counted.pattern} in {counted.source} "
            "was being counted. Nothing was published; scan again"
        )
    configuration = dataset.configuration
    is_first = dataset.current_number is None or configuration.sampled_from is not None
    configuration = replace(configuration, sampled_from=plan.sampled_from)
    if configuration.selection is None or not configuration.selection.inspected:
        configuration = replace(configuration, selection=counted.configuration.selection)
    if is_first and not configuration.splits:
        configuration = replace(configuration, splits=counted.configuration.splits)
    if is_first and not configuration.splits:
        configuration = replace(configuration, splits=splits.detect(plan.whole.path))
    if is_first:
        configuration = with_source_names(configuration, plan.listing.class_names)
        configuration = class_files.with_classes(configuration, plan.class_files, class_id)
    if configuration.num_classes == 0 and plan.sampled_from is None:
        num_classes = infer_num_classes(class_id, configuration)
        configuration = replace(configuration, num_classes=num_classes)
    return configuration

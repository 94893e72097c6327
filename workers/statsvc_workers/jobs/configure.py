"""Complete the configuration of a dataset with what its first scan finds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from statsvc.dataset import splits
from statsvc.dataset.num_classes import infer_num_classes, with_source_names
from statsvc.errors import JobFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from statsvc.dataset.configuration import Configuration
    from statsvc.store.catalog.records import Dataset
    from statsvc_workers.jobs.plan import Plan


def complete_configuration(plan: Plan, class_id: NDArray[np.int64], dataset: Dataset) -> Configuration:
    """Return a dataset's configuration; the first scan adds the splits, class names and number of classes.

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
    if dataset.current_number is None and not configuration.splits:
        configuration = replace(configuration, splits=splits.detect(plan.listing.path))
    if dataset.current_number is None:
        configuration = with_source_names(configuration, plan.listing.class_names)
    if configuration.num_classes == 0:
        num_classes = infer_num_classes(class_id, configuration)
        configuration = replace(configuration, num_classes=num_classes)
    return configuration

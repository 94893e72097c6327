"""Findings about the groups that a dataset's group rules define."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statsvc.common.plurals import plural
from statsvc.dataset.group_counts import count_groups
from statsvc.doctor.finding import NOTICE, Finding, list_first
from statsvc.errors import Unanswerable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statsvc.dataset.table import Table
    from statsvc.doctor.interpretation import Interpretation


def held_by_one_group(table: Table, interpretation: Interpretation) -> Iterator[Finding]:
    """Yield a finding for each group rule under which one of several groups contains all of a class."""
    counts = interpretation.counts
    columns = np.flatnonzero(counts.counted & (counts.histogram.pixels > 0))
    for name, grouping in table.configuration.groups.items():
        try:
            groups = count_groups(table, counts, None, grouping)
        except Unanswerable:  # too many groups for any of them to matter
            continue
        if len(groups.names) < 2:
            continue
        held = [
            (int(counts.histogram.class_id[column]), groups.names[int(groups.pixels[:, column].argmax())])
            for column in columns
            if groups.pixels[:, column].max() == counts.histogram.pixels[column]
        ]
        if not held:
            continue
        affected = {group for _, group in held}
        described = list_first(f"{interpretation.name(class_id)} in {group}" for class_id, group in held)
        yield Finding(
            "held_by_one_group",
            NOTICE,
            f"{plural(len(held), 'class')} of {len(columns)} occur in one {name} only, of "
            f"{plural(len(groups.names), 'group')}: {described}. A split that keeps each {name} together has "
            "these classes in one part only.",
            "Label these classes in further groups, or merge the classes.",
            count=sum(int(groups.samples[groups.names.index(group)]) for group in affected),
            ids=tuple(class_id for class_id, _ in held),
        )

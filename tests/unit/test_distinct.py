"""Distinct values, compared with `np.unique`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from statsvc.common.distinct import distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray


@given(st.lists(arrays(np.int64, st.integers(0, 20), elements=st.integers(-5, 5)), min_size=1, max_size=3))
def test_distinct_values_of_several_arrays_are_those_of_numpy(values: list[NDArray[np.int64]]) -> None:
    np.testing.assert_array_equal(distinct(*values), np.unique(np.concatenate(values)), strict=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_the_type_is_kept(dtype: type[np.generic]) -> None:
    assert distinct(np.array([3, 1, 3], dtype)).dtype == dtype

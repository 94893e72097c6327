"""What Schemathesis needs to know about statsvc: its text formats, and which valid requests it may reject."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st

MAY_BE_REJECTED = ("/problems/unanswerable", "/problems/source")
"""Problems that depend on the dataset and on the folders of the server, not on the form of the request."""

numbers = st.integers(1, 9999).map(lambda number: f"{number / 100:g}")
words = st.text("abcdefgh0123456789_-", min_size=1, max_size=12)

schemathesis.openapi.format(
    "re2",
    st.lists(st.sampled_from(["^", "a", ".*", r"(\w+?)", "_", "/", "[0-9]{2}"]), min_size=1).map("".join),
)
schemathesis.openapi.format("sample-path", st.lists(words, min_size=1, max_size=3).map("/".join))
schemathesis.openapi.format("bounds", numbers.map(lambda low: f"{low},100"))
schemathesis.openapi.format("factor-range", numbers.map(lambda low: f"{low}:100"))
schemathesis.openapi.format(
    "class-factors",
    st.dictionaries(words, numbers, min_size=1, max_size=3).map(
        lambda factors: ",".join(f"{name}:{factor}" for name, factor in factors.items())
    ),
)


@schemathesis.check
def only_contradictions_are_refused(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Fail if a request that conforms to the document is refused, and not for what only the server knows."""
    if response.status_code != 422 or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    problem = response.json()
    assert problem.get("schema_valid") or problem["type"] in MAY_BE_REJECTED, problem["detail"]

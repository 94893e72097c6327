"""The result of a comparison in a Python program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.weighting.comparison import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import Figure


class Comparison(dict[str, Any]):
    """A comparison of weighting methods, as `statsvc compare --json` prints it.

    "candidates" has a dict for each method: `names`, `weights` and `loss_share` of each class id, and
    `ratio`, the largest over the smallest weight. "classes" has the names and frequencies. A notebook shows a
    table with bars.
    """

    @classmethod
    def of(
        cls,
        weights_of: Callable[[dict[str, Any]], dict[str, Any]],
        shared: Mapping[str, Any],
        *,
        method: str | Sequence[str] = (),
        beta: Any = (),
        alpha: Any = (),
        strength: Any = (),
    ) -> Comparison:
        """Return a comparison. The arguments are those of `comparison.compare`, as one value or several."""
        methods, betas, alphas, strengths = map(_texts, (method, beta, alpha, strength))
        return cls(
            compare(weights_of, shared, methods=methods, betas=betas, alphas=alphas, strengths=strengths)
        )

    def plot(self) -> Figure:
        """Return a plot: classes from frequent to rare, methods from the weakest to the strongest.

        Raises `ImportError` without matplotlib.
        """
        from statsvc.weighting.comparison_plot import draw, require_matplotlib

        require_matplotlib()
        return draw(self)

    def _repr_html_(self) -> str:
        from statsvc.weighting.display import comparison_html

        return comparison_html(self)


def _texts(values: Any) -> list[str]:
    return [str(value) for value in (values if isinstance(values, list | tuple) else [values])]

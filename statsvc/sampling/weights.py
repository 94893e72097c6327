"""The weights response of any spec: of the files, of a sampler's stream, or of a mixture of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statsvc.dataset.table import Table
from statsvc.sampling.stream_weights import stream_response
from statsvc.weighting.response import files_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.weighting.parameters import WeightSpec


def weights_response(source: Table | Sequence[tuple[Table, float]], spec: WeightSpec) -> dict[str, Any]:
    """Return the weights response of a table, or of a mixture: tables with shares that add up to 1.

    A spec with a sampler, and every mixture, are answered for the stream of drawn images, other specs for
    the files. See `statsvc.weighting.response.weights_body` for the content.

    Raises `InvalidParameter` for a contradictory spec, `NotFound` for an unknown split, `Unanswerable`
    where these counts cannot answer the request.
    """
    spec = spec.resolved()
    if not isinstance(source, Table):
        return stream_response(source, spec)
    if spec.sampler is not None:
        return stream_response([(source, 1.0)], spec)
    return files_response(source, spec)

"""Compilation of the counting loops with numba: decorators, the cache folder, and intrinsics they share."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from statsvc_workers.kernels.compiled_folder import compiled_folder, warn_uncached

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)


# By default numba writes next to the source, where an installed package may be read-only. numba reads the
# variables on import.
if "NUMBA_CACHE_DIR" not in os.environ and (_cache_folder := compiled_folder()) is not None:
    os.environ["NUMBA_CACHE_DIR"] = str(_cache_folder)
os.environ.pop("NUMBA_DISABLE_JIT", None)  # Python cannot call the intrinsics

import numba  # noqa: E402 - the variables must be set first
from llvmlite import ir  # noqa: E402
from numba.core import cgutils, config, types  # noqa: E402
from numba.core.caching import FunctionCache  # noqa: E402
from numba.extending import intrinsic  # noqa: E402


@contextmanager
def optimized_less() -> Iterator[None]:
    """Compile at optimization level 2 at most; level 3, numba's default, takes four times as long."""
    level = config.OPT
    config.OPT = type(level)(min(level, 2))
    try:
        yield
    finally:
        config.OPT = level


class _Cache(FunctionCache):  # type: ignore[misc]
    """Compiled code on disk. If it cannot be read or written, the loop is compiled again."""

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # noqa: BLE001 - unpickling a damaged file raises anything
            log.warning("Compiled code in %s cannot be read (%s); compiling it again", self.cache_path, error)
            with suppress(OSError):
                self.flush()  # else the damaged index could not be extended, either
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:  # noqa: BLE001 - it also reads the index
            log.warning("Compiled code cannot be stored in %s: %s", self.cache_path, error)


def kernel(function):
    """Compile a loop on its first call with new argument types. NUMBA_BOUNDSCHECK=1 checks every index."""
    compiled = numba.njit(nogil=True, boundscheck=None)(function)
    try:
        compiled._cache = _Cache(function)  # what `njit(cache=True)` does, with its own class
    except RuntimeError:  # numba found no folder that it can write to
        warn_uncached()
    return compiled


LANES = 64
"""Items that `run_ends` compares: as many as a word has bits."""

njit = numba.njit
"""numba's decorator; from here, so that numba is imported after its variables are set."""

inlined = njit(inline="always")
"""Compiles a step of a loop into the loop that calls it."""


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the address of array[index] as a pointer to a 64-bit word."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), cgutils.intp_t.as_pointer())


@intrinsic
def word(_typing: Any, array: Any, index: Any) -> Any:
    """Return the 8 bytes that start at array[index] as one uint64.

    The array must be contiguous and contain all 8 bytes.
    """

    def load(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *arguments), align=1)

    return types.uint64(array, types.intp), load


@intrinsic
def of_bytes(_typing: Any, array: Any) -> Any:
    """Return whether the array is uint8: a compile-time constant, so only one branch is compiled."""

    def is_byte(_context: Any, _builder: Any, signature: Any, _arguments: Any) -> Any:
        return cgutils.bool_t(signature.args[0].dtype == types.uint8)

    return types.boolean(array), is_byte


@intrinsic
def put_word(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a uint64 over the 8 bytes that start at array[index].

    The array must be contiguous and contain all 8 bytes.
    """

    def save(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, index, value = arguments
        builder.store(value, _address(context, builder, signature.args[0], target, index), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), save


@intrinsic
def trailing_zeros(_typing: Any, value: Any) -> Any:
    """Return the number of trailing zero bits of a uint64; undefined for 0."""

    def count(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.uint64(types.uint64), count


@intrinsic
def ones(_typing: Any, value: Any) -> Any:
    """Return the number of bits of a uint64 that are set."""

    def count(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), count


def _lanes(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the `LANES` items from array[index] on as a vector."""
    data = context.make_array(kind)(context, builder, array).data
    items = ir.VectorType(context.get_data_type(kind.dtype), LANES).as_pointer()
    return builder.load(builder.bitcast(builder.gep(data, [index]), items), align=1)


def _differing_lanes(builder: Any, these: Any, those: Any) -> Any:
    """Return a word in which bit k is 1 where item k of two vectors differs."""
    return builder.bitcast(builder.icmp_unsigned("!=", these, those), ir.IntType(LANES))


@intrinsic
def run_ends(_typing: Any, array: Any, index: Any) -> Any:
    """Compare `LANES` items from array[index] on with their right neighbors; return a uint64.

    Bit k is 1 where item `index + k` differs from the next one. The array must be contiguous and contain item
    `index + LANES`.
    """

    def compare(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        array, index = arguments
        here, after = (
            _lanes(context, builder, kind, array, first)
            for first in (index, builder.add(index, index.type(1)))
        )
        return _differing_lanes(builder, here, after)

    return types.uint64(array, types.intp), compare


@intrinsic
def differing(_typing: Any, array: Any, index: Any, other: Any, place: Any) -> Any:
    """Compare `LANES` items from array[index] on with those from other[place] on; return a uint64.

    Bit k is 1 where item k of them differs. Both arrays must be contiguous, have the same type, and contain
    all items.
    """

    def compare(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, other, place = arguments
        these = _lanes(context, builder, signature.args[0], array, index)
        return _differing_lanes(builder, these, _lanes(context, builder, signature.args[2], other, place))

    return types.uint64(array, types.intp, other, types.intp), compare


@intrinsic
def nonzero(_typing: Any, array: Any, index: Any) -> Any:
    """Return a uint64 in which bit k is 1 where array[index + k] is not zero, for `LANES` items.

    The array must be contiguous and contain all of them.
    """

    def compare(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        these = _lanes(context, builder, signature.args[0], *arguments)
        return _differing_lanes(builder, these, ir.Constant(these.type, None))

    return types.uint64(array, types.intp), compare


@intrinsic
def equal_to(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Return a uint64 in which bit k is 1 where array[index + k] equals `value`, for `LANES` items.

    The array must be contiguous and contain all of them; `value` has the type of its items.
    """

    def compare(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        these = _lanes(context, builder, signature.args[0], array, index)
        one = builder.insert_element(ir.Constant(these.type, ir.Undefined), value, ir.IntType(32)(0))
        first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
        those = builder.shuffle_vector(one, ir.Constant(these.type, ir.Undefined), first)
        return builder.bitcast(builder.icmp_unsigned("==", these, those), ir.IntType(LANES))

    return types.uint64(array, types.intp, array.dtype), compare


@intrinsic
def put_lanes(_typing: Any, array: Any, index: Any, other: Any, place: Any, add: Any) -> Any:
    """Write `LANES` items from other[place] on over those from array[index] on, or add them if `add`.

    Both arrays must be contiguous, have the same type, and contain all items.
    """

    def save(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, other, place, add = arguments
        old = _lanes(context, builder, signature.args[0], array, index)
        new = _lanes(context, builder, signature.args[2], other, place)
        data = context.make_array(signature.args[0])(context, builder, array).data
        target = builder.bitcast(builder.gep(data, [index]), new.type.as_pointer())
        builder.store(builder.select(add, builder.add(old, new), new), target, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, other, types.intp, types.boolean), save


@inlined
def all_equal(flat, i, inside, pattern):
    """Whether the eight words that start at flat[i] all equal `pattern`: one branch for 64 bytes.

    `inside` is the number of items per word.
    """
    differs = word(flat, i) ^ pattern
    differs |= word(flat, i + inside) ^ pattern
    differs |= word(flat, i + 2 * inside) ^ pattern
    differs |= word(flat, i + 3 * inside) ^ pattern
    differs |= word(flat, i + 4 * inside) ^ pattern
    differs |= word(flat, i + 5 * inside) ^ pattern
    differs |= word(flat, i + 6 * inside) ^ pattern
    differs |= word(flat, i + 7 * inside) ^ pattern
    return differs == 0

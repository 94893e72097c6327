"""The loop that counts a PNG as machine code on disk, called without loading numba.

numba takes longer to import than counting a small dataset. It compiles the loop once; the machine code, which
refers to nothing outside of itself, is then kept in a file and loaded with llvmlite alone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llvmlite import __version__ as llvmlite_version
from llvmlite import binding as llvm

from statsvc_workers.kernels.compiled_folder import compiled_folder, warn_uncached

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

IDS = 256
"""Counters of a column of tiles: one for each byte."""

_NAME = "statsvc_count_rows"
_DIGEST_BYTES = 32
_LOCK = threading.Lock()

_SOURCES = ("png_rows.py", "tile_rows.py", "run_lengths.py", "numba_support.py", "machine_code.py")
"""Files of this package that determine the machine code."""

_CHECKED = ("NUMBA_BOUNDSCHECK", "NUMBA_DISABLE_JIT")
"""Variables of numba with which the loop is run by numba itself."""


def count_rows(
    data: NDArray[np.uint8],
    rows: NDArray[np.int64],
    row: int,
    columns: NDArray[np.int64],
    counts: NDArray[np.int64],
    tails: NDArray[np.int64],
    before: NDArray[np.uint8],
) -> int:
    """Unfilter and count rows, as `png_rows.count_rows` does; releases the GIL. All arrays are contiguous."""
    tiles = (len(rows) - 1) * (len(columns) - 1)
    sizes = (int(rows[-1]) * (1 + row), len(rows), len(columns), tiles * IDS, IDS, row)
    arrays: tuple[NDArray[Any], ...] = (data, rows, columns, counts, tails, before)
    if any(
        len(array) < size or not array.flags.c_contiguous for array, size in zip(arrays, sizes, strict=True)
    ):
        raise ValueError("an array is shorter than the loop reads, or not contiguous")
    return load()(data, rows, row, columns, counts, tails, before)


def load() -> Callable[..., int]:
    """Return the loop, which the first call loads or compiles."""
    with _LOCK:
        return _loop()


@functools.cache
def _loop() -> Callable[..., int]:
    """Return the loop: from the machine code on disk, or else compiled now."""
    if any(os.environ.get(name, "0") != "0" for name in _CHECKED):
        return _numba_loop()
    machine = _machine()
    folder = Path(configured) if (configured := os.environ.get("NUMBA_CACHE_DIR")) else compiled_folder()
    file = None if folder is None else folder / f"count-{_key(machine)}.o"
    code = None if file is None else _stored(file)
    if code is None:
        log.info("compiling the loops that count pixels; this happens once per user and machine")
        code = _compiled(machine)
        if code is None:
            return _numba_loop()
        _store(file, code)
    return _callable(machine, code)


def _numba_loop() -> Callable[..., int]:
    from statsvc_workers.kernels import png_rows

    run: Callable[..., int] = png_rows.count_rows
    return run


def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        codemodel="jitdefault",
        jit=True,
    )


def _key(machine: Any) -> str:
    """Return the key of everything that determines the machine code."""
    digest = hashlib.blake2b(digest_size=16)
    features = llvm.get_host_cpu_features().flatten()
    digest.update(f"{llvmlite_version} {machine.triple} {llvm.get_host_cpu_name()} {features}".encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


def _stored(file: Path) -> bytes | None:
    """Return the machine code of a file; None if there is none, or if it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.blake2b(code, digest_size=_DIGEST_BYTES).digest() == digest:
        return code
    log.warning("Compiled code in %s is damaged; compiling it again", file)
    return None


def _store(file: Path | None, code: bytes) -> None:
    """Keep machine code for later processes, if a folder is writable."""
    if file is None:
        warn_uncached()
        return
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(hashlib.blake2b(code, digest_size=_DIGEST_BYTES).digest() + code)
            Path(name).replace(file)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        log.warning("Compiled code cannot be stored in %s: %s", file, error)


def _compiled(machine: Any) -> bytes | None:
    """Compile the loop with numba to machine code that refers to nothing outside of itself.

    None if numba compiled it to something else.
    """
    from numba import carray, njit, types

    from statsvc_workers.kernels import png_rows

    count = png_rows.count_rows

    def on_pointers(data, size, rows, bands, row, columns, edges, counts, tails, before):  # type: ignore[no-untyped-def]
        return count(
            carray(data, (size,)),
            carray(rows, (bands,)),
            row,
            carray(columns, (edges,)),
            carray(counts, ((bands - 1) * (edges - 1) * IDS,)),
            carray(tails, (IDS,)),
            carray(before, (row,)),
        )

    pixels, numbers, size = types.CPointer(types.uint8), types.CPointer(types.int64), types.int64
    signature = types.int64(pixels, size, numbers, size, size, numbers, size, numbers, numbers, pixels)
    compiled = njit(signature, boundscheck=False)(on_pointers)
    [overload] = compiled.overloads.values()
    name = overload.fndesc.llvm_func_name
    module = llvm.parse_assembly(overload.library.get_llvm_str().replace(name, _NAME))
    for function in module.functions:
        if function.name != _NAME and not function.is_declaration:
            function.linkage = "internal"
    # The arrays have no owner, so all reference counts disappear, and with them the calls of numba's runtime.
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    if any(f.is_declaration and not f.name.startswith("llvm.") for f in module.functions):
        log.info("the counting loop refers to functions of numba, so it is loaded with numba")
        return None
    code: bytes = machine.emit_object(module)
    return code


def _callable(machine: Any, code: bytes) -> Callable[..., int]:
    """Load machine code; return a function with the arguments of `png_rows.count_rows`."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    # By numba's calling convention, the first two arguments receive the result and the exception.
    arguments = (pointer, pointer, pointer, size, pointer, size, size, pointer, size, *[pointer] * 3)
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *arguments)(engine.get_function_address(_NAME))

    def run(
        data: NDArray[np.uint8],
        rows: NDArray[np.int64],
        row: int,
        columns: NDArray[np.int64],
        counts: NDArray[np.int64],
        tails: NDArray[np.int64],
        before: NDArray[np.uint8],
        _engine: Any = engine,  # owns the machine code
    ) -> int:
        result, exception = ctypes.c_int64(), ctypes.c_void_p()
        function(
            ctypes.addressof(result),
            ctypes.addressof(exception),
            *(data.ctypes.data, len(data)),
            *(rows.ctypes.data, len(rows)),
            row,
            *(columns.ctypes.data, len(columns)),
            *(counts.ctypes.data, tails.ctypes.data, before.ctypes.data),
        )
        return result.value

    return run

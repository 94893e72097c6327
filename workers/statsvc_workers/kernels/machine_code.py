"""Compiled loops as machine code on disk, called without loading numba.

numba takes longer to import than counting a small dataset. It compiles a loop once; the machine code, which
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
from typing import TYPE_CHECKING, Any, TypeAlias

from llvmlite import __version__ as llvmlite_version
from llvmlite import binding as llvm

from statsvc_workers.kernels.compiled_folder import compiled_folder, warn_uncached

if TYPE_CHECKING:
    from collections.abc import Callable

    Build: TypeAlias = Callable[[], tuple[Callable[..., Any], Any]]
    """Returns a function of integers and pointers, which numba can compile, and its signature."""

log = logging.getLogger(__name__)

_SYMBOL = "statsvc_loop"
_Outputs = ctypes.c_int64 * 2
_DIGEST_BYTES = 32
_LOCK = threading.Lock()

_SOURCES = (
    "loops.py",
    "machine_code.py",
    "numba_support.py",
    "png_rows.py",
    "run_lengths.py",
    "sizes.py",
    "tile_rows.py",
)
"""Files of this package that determine the machine code."""

_loaded: dict[str, Callable[..., int] | None] = {}


def load(name: str, build: Build) -> Callable[..., int] | None:
    """Return a loop, which the first call reads from disk or compiles; None if numba itself must run it.

    The loop takes integers of 64 bits, addresses among them, returns such an integer, and releases the GIL.

    name  identifies the loop and the types of its arguments
    """
    try:
        return _loaded[name]
    except KeyError:
        pass
    with _LOCK:
        if name not in _loaded:
            _loaded[name] = _load(name, build)
        return _loaded[name]


def load_stored(name: str) -> None:
    """Load a loop if its machine code is on disk."""
    with _LOCK:
        if name in _loaded or _is_run_by_numba():
            return
        file = _file(name)
        code = None if file is None else _stored(file)
        if code is not None:
            _loaded[name] = _callable(code)


def _load(name: str, build: Build) -> Callable[..., int] | None:
    if _is_run_by_numba():
        return None
    file = _file(name)
    code = None if file is None else _stored(file)
    if code is None:
        log.info("compiling the loop %s; this happens once per user and machine", name)
        code = _compiled(build)
        if code is None:
            return None
        _store(file, code)
    return _callable(code)


def _is_run_by_numba() -> bool:
    return os.environ.get("NUMBA_BOUNDSCHECK", "0") != "0"


def _file(name: str) -> Path | None:
    """Return the file of a loop; None if no folder is writable."""
    folder = Path(configured) if (configured := os.environ.get("NUMBA_CACHE_DIR")) else compiled_folder()
    return None if folder is None else folder / f"{name}-{_key()}.o"


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


def _key() -> str:
    """Return the key of everything that determines the machine code."""
    digest = hashlib.blake2b(digest_size=16)
    features = llvm.get_host_cpu_features().flatten()
    triple = llvm.get_process_triple()
    digest.update(f"{llvmlite_version} {triple} {llvm.get_host_cpu_name()} {features}".encode())
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


def _compiled(build: Build) -> bytes | None:
    """Compile a loop with numba to machine code that refers to nothing outside of itself.

    None if numba compiled it to something else.
    """
    from statsvc_workers.kernels.numba_support import njit, optimized_less

    function, signature = build()
    with optimized_less():  # the module is optimized once more below
        compiled = njit(signature, boundscheck=False)(function)
    [overload] = compiled.overloads.values()
    name = overload.fndesc.llvm_func_name
    module = llvm.parse_assembly(overload.library.get_llvm_str().replace(name, _SYMBOL))
    for part in module.functions:
        if part.name != _SYMBOL and not part.is_declaration:
            part.linkage = "internal"
    # The arrays have no owner, so all reference counts disappear, and with them the calls of numba's runtime.
    machine = _machine()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    if any(part.is_declaration and not part.name.startswith("llvm.") for part in module.functions):
        log.info("the loop refers to functions of numba, so it is loaded with numba")
        return None
    code: bytes = machine.emit_object(module)
    return code


def _callable(code: bytes) -> Callable[..., int]:
    """Load machine code; return a function of its arguments, all of them integers."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(_SYMBOL)

    @functools.cache
    def function(count: int) -> Any:  # of so many arguments; addresses are passed as integers of 64 bits are
        return ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * count)(address)

    def run(
        *arguments: int | ctypes.c_int64, _engine: Any = engine
    ) -> int:  # the engine owns the machine code
        # By numba's calling convention, the first two arguments receive the result and the exception.
        outputs = _Outputs()
        at = ctypes.addressof(outputs)
        function(2 + len(arguments))(at, at + 8, *arguments)
        return outputs[0]

    return run

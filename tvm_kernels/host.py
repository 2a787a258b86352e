"""How does a compiled kernel get threads and memory? From PyTorch's own OpenMP pool, see `host.c`.

Loading a kernel needs `tvm_ffi` alone; the compiler (`tvm`) is imported only where a kernel has to be built.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
import tvm_ffi

_SOURCE = Path(__file__).with_name("host.c")
_SYMBOLS = {
    "__TVMBackendParallelLaunch": "shiftadd_parallel_launch",
    "__TVMBackendAllocWorkspace": "shiftadd_allocate",
    "__TVMBackendFreeWorkspace": "shiftadd_free",
}


class LinkError(RuntimeError):
    """A kernel could not be written as a library; the message says what is missing."""


def load(library: Path) -> Any:
    """Load a kernel library and give it threads and memory.

    Args:
        library: a shared object made by :func:`link`.

    Returns:
        a module whose functions take torch tensors.
    """
    module = tvm_ffi.load_module(str(library.resolve()))
    pointers = ctypes.CDLL(str(library.resolve()))
    for symbol, answer in _SYMBOLS.items():
        if hasattr(pointers, symbol):
            function = ctypes.cast(getattr(_host(library.parent), answer), ctypes.c_void_p)
            ctypes.c_void_p.in_dll(pointers, symbol).value = function.value
    return module


def link(module: Any, library: Path, triple: str = "") -> None:
    """Write a compiled module as a shared object.

    Args:
        module: what :func:`tvm_kernels.pipeline.build` returns.
        library: the file to write.
        triple: LLVM's triple of the machine; empty for this one's. Another architecture is linked by its cross
            compiler, e.g. ``aarch64-linux-gnu-gcc``.

    Raises:
        LinkError: there is no C compiler to link with.
    """
    compiler, options = "gcc", {}
    if triple and triple.split("-")[0] != platform.machine():
        from tvm.support.cc import cross_compiler

        compiler = f"{triple}-gcc"
        options = {"fcompile": cross_compiler(compiler)}
    try:
        module.export_library(str(library), **options)
    except (OSError, RuntimeError) as error:
        raise LinkError(f"kernels are linked by a C compiler; install one, here {compiler} ({error})") from error


@cache
def _host(folder: Path) -> ctypes.CDLL:
    """The compiled `host.c`, told where OpenMP is."""
    from .cache import stored

    host = ctypes.CDLL(str(stored(folder, f"host-{_digest()}", _compile)))
    openmp = _openmp()
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "omp_get_max_threads")
    host.shiftadd_use_openmp(*(ctypes.cast(getattr(openmp, name), ctypes.c_void_p) for name in names))
    return host


def _digest() -> str:
    import hashlib

    return hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]


def _compile(library: Path) -> None:
    command = ["cc", "-O2", "-shared", "-fPIC", str(_SOURCE), "-o", str(library)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise LinkError("kernels are linked by a C compiler: install one, e.g. gcc") from None
    except subprocess.CalledProcessError as error:
        raise LinkError(f"{' '.join(command)} failed: {error.stderr}") from error


def _openmp() -> ctypes.CDLL:
    """The OpenMP library of this process: PyTorch's own copy, or the system's where PyTorch links to it."""
    shipped = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    shipped += sorted((Path(torch.__file__).parent.parent / "torch.libs").glob("libgomp*.so*"))
    return ctypes.CDLL(str(shipped[0]) if shipped else "libgomp.so.1")

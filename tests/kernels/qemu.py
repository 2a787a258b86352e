"""Runs kernels for 64-bit ARM on another machine: compiled for it, linked with a small host, executed by qemu-user."""

import os
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

from tvm_kernels.kernels import Kernel

_COMPILER, _EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
_TYPES = {
    torch.float32: (2, 32),
    torch.int8: (0, 8),
    torch.int32: (0, 32),
    torch.int64: (0, 64),
    torch.uint8: (1, 8),
}
AVAILABLE = all(map(shutil.which, (_COMPILER, _EMULATOR)))


def qemu_function(kernel: Kernel):
    """The kernel as a function of torch tensors, which it fills as on the machine itself."""
    program = _program(kernel)

    def run(*tensors):
        tensors = [torch.from_dlpack(tensor) for tensor in tensors]
        with_input, with_output = program.parent / f"{os.getpid()}.in", program.parent / f"{os.getpid()}.out"
        with_input.write_bytes(struct.pack("<q", len(tensors)) + b"".join(map(_written, tensors)))
        subprocess.run([_EMULATOR, "-cpu", "max", program, with_input, with_output], check=True)
        results = with_output.read_bytes()
        for tensor in tensors:
            if tensor.numel():
                part = torch.frombuffer(bytearray(results[: tensor.nbytes]), dtype=tensor.dtype)
                tensor.copy_(part.view(tensor.shape))
                results = results[tensor.nbytes :]

    return run


def _written(tensor):
    header = struct.pack(f"<{3 + tensor.ndim}q", *_TYPES[tensor.dtype], tensor.ndim, *tensor.shape)
    return header + tensor.contiguous().numpy().tobytes()


@cache
def _program(kernel):
    folder = Path(mkdtemp(prefix="shiftadd-qemu-"))
    library, program = folder / "kernel.o", folder / "kernel"
    kernel.build().write_to_file(str(library), "o")
    names = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout.split()
    symbol = next(name for name in names if name.startswith("__tvm_ffi_") and name != "__tvm_ffi_main")
    host = Path(__file__).with_name("qemu_host.c")
    command = [_COMPILER, "-O1", "-static", f"-DKERNEL={symbol}", host, library, "-lm", "-o", program]
    subprocess.run(command, check=True)
    return program

"""Runs the bridge for other machines than this one, as far as this one can execute their code."""

from contextlib import contextmanager, nullcontext

from emulation import function_for_this_machine
from qemu import AVAILABLE, qemu_function

import tvm_kernels
from tvm_kernels.bridge import machine as here
from tvm_kernels.kernels import stand_in
from tvm_kernels.targets import TARGETS, runs_here

HOST = tvm_kernels.target("host").name
NATIVE = [name for name, target in TARGETS.items() if runs_here(target) and name in (HOST, "haswell", "generic")]
_AVX512 = (
    [name for name, target in TARGETS.items() if target.has("avx512")] if runs_here(TARGETS["skylake-avx512"]) else []
)
ARM = ["cortex-a76", "cortex-a72"]
RUNNABLE = list(dict.fromkeys(NATIVE + _AVX512 + (ARM if AVAILABLE else [])))
"""Targets whose kernels run on this machine: by themselves, with instructions replaced, or in qemu."""


@contextmanager
def on_target(name):
    """Inside the block, operands are laid out and kernels built for a target."""
    target = tvm_kernels.target(name)
    foreign = qemu_function if target.has("neon") else function_for_this_machine
    with here.pretend(target), nullcontext() if runs_here(target) else stand_in(foreign):
        yield

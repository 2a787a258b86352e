"""Kernels scheduled with TVM that run packed layers at the speed of memory.

    import tvm_kernels
    tvm_kernels.enable(model)        # a packed model; from now on its operators run on compiled kernels
    with tvm_kernels.enabled(): ...  # the same for a block

What lies where:

* `targets`: machines and what they can do.
* `layouts`: how operands lie in memory; torch only.
* `compute`: what each kernel computes, without a schedule. `schedules`: rules that make it fast, per machine.
  `intrinsics`: the few instructions that matter. `pipeline`: from a schedule to machine code. These need `tvm`.
* `kernels`, `cache`, `host`: from a name and a shape to a function that can be called.
* `bridge`: kernels behind the torch operators. `tracing`: which kernels a layer runs, on any machine.
* `tune`, `records`: which decisions are fastest. `profile`: how long layers and
  attentions take (`series`: what is measured, `timers`: how). `explain`: why a kernel is as it is.
  `remote`: all that on another machine.
"""

from .bridge import MissingKernelError, disable, enable, enabled, is_enabled
from .targets import TARGETS, Target, target

__all__ = ["TARGETS", "MissingKernelError", "Target", "disable", "enable", "enabled", "is_enabled", "target"]

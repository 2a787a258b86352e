"""Which machine do the operators of this process compute on?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..targets import Target, target

_machine = target("host")


def machine() -> Target:
    """The target whose kernels are used."""
    return _machine


@contextmanager
def pretend(other: Target) -> Iterator[None]:
    """Use kernels of another target inside the ``with`` block, in all threads.

    They must run on this machine unless something stands in for them, see :func:`~tvm_kernels.kernels.stand_in`.
    Weights that were laid out before keep their layout, so use it with tensors of its own.
    """
    global _machine
    before, _machine = _machine, other
    try:
        yield
    finally:
        _machine = before

"""How does an instruction become known to ``tensorize``?"""

from __future__ import annotations

from tvm.s_tir import TensorIntrin
from tvm.tirx import PrimFunc


def registered(name: str, meaning: PrimFunc, instructions: PrimFunc) -> str:
    """Register a pair of meaning and machine code; returns its name."""
    TensorIntrin.register(name, meaning, instructions, override=True)
    return name

"""Runs kernels for AVX-512 VNNI and VBMI on machines that have AVX-512 alone.

Each instruction that is missing is replaced by vector code of the same meaning, written here from the manual's
definition, so what is tested is the schedule with its instructions, wherever the tests run.
"""

import tvm
import tvm_ffi
from tvm import tirx
from tvm.script import tirx as T
from tvm.target.codegen import llvm_lookup_intrinsic_id

from tvm_kernels.kernels import Kernel
from tvm_kernels.pipeline import build
from tvm_kernels.targets import target

_NATIVE = "skylake-avx512"
_LLVM = tvm.ir.Op.get("tirx.call_llvm_pure_intrin")


def function_for_this_machine(kernel: Kernel):
    """A kernel for some AVX-512 machine as a function that runs here."""
    return build(emulated(kernel.schedule().mod), target(_NATIVE))["main"]


def emulated(mod: tvm.IRModule) -> tvm.IRModule:
    """The module without instructions beyond AVX-512 BW."""
    meanings = {
        llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"): _dot,
        llvm_lookup_intrinsic_id("llvm.x86.avx512.permvar.qi.512"): _permute,
    }

    def replace(call):
        known = call.op.same_as(_LLVM) and meanings.get(int(call.args[0]))
        return known(*call.args[1:]) if known else call

    functions = {
        name: func.with_body(tvm_ffi.structural_map(func.body, (tvm.ir.Call, replace)))
        for name, func in mod.functions_items()
    }
    return tvm.IRModule(functions)


def _dot(total, unsigned, signed):
    """VPDPBUSD: four products of an unsigned and a signed byte are added to each 32-bit lane, without saturation."""
    left, right = T.reinterpret("int32x16", unsigned), T.reinterpret("int32x16", signed)
    for j in range(4):
        byte = T.bitwise_and(T.shift_right(left, T.broadcast(8 * j, 16)), T.broadcast(255, 16))
        number = T.shift_right(T.shift_left(right, T.broadcast(24 - 8 * j, 16)), T.broadcast(24, 16))
        total = total + byte * number
    return total


def _permute(table, index):
    """VPERMB: each byte is chosen from 64 by the low six bits of its index."""
    shuffle = llvm_lookup_intrinsic_id("llvm.x86.avx512.pshuf.b.512")
    low = T.bitwise_and(index, T.broadcast(T.uint8(15), 64))
    quarter = T.bitwise_and(T.shift_right(index, T.broadcast(T.uint8(4), 64)), T.broadcast(T.uint8(3), 64))
    words, chosen = T.reinterpret("int32x16", table), None
    for i in range(4):
        lanes = [tirx.IntImm("int32", 4 * i + j % 4) for j in range(16)]
        part = T.reinterpret("uint8x64", tirx.Shuffle([words], lanes))
        found = T.call_llvm_pure_intrin("uint8x64", shuffle, part, low)
        chosen = found if chosen is None else T.Select(quarter == T.broadcast(T.uint8(i), 64), found, chosen)
    return chosen

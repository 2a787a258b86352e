"""The instructions themselves: LLVM's names, by width of a vector register.

TVM checks nothing about them, LLVM only their types; `tests/kernels` compares each with its meaning.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..targets import Target

# Expressions of TVMScript have no useful Python type.
# ruff: noqa: ANN001, ANN201

_PERMUTE_BYTES = "llvm.x86.avx512.permvar.qi.512"
_SHUFFLE_BYTES = {16: "llvm.x86.avx512.pshuf.b.512", 8: "llvm.x86.avx2.pshuf.b", 4: "llvm.aarch64.neon.tbl1.v16i8"}
_DOT_BYTES = "llvm.x86.avx512.vpdpbusd.512"
_MADD_BYTES = {16: "llvm.x86.avx512.pmaddubs.w.512", 8: "llvm.x86.avx2.pmadd.ub.sw"}
_MADD_WORDS = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}
_DOT_SIGNED = "llvm.aarch64.neon.sdot.v4i32.v16i8"


def repeat_words(words, lanes: int):
    """64-bit words as a vector of bytes, repeated until it is full."""
    count = lanes // 2
    chosen = [words[i % len(words)] for i in range(count)]
    return T.reinterpret(f"uint8x{4 * lanes}", tirx.Shuffle(chosen, [tirx.IntImm("int32", i) for i in range(count)]))


def shift_bytes_right(vector, bits: int, lanes: int):
    """Shift in pairs of bytes, which machines can do; bits of the neighbour come in from above."""
    pairs = T.reinterpret(f"uint16x{2 * lanes}", vector)
    return T.reinterpret(f"uint8x{4 * lanes}", T.shift_right(pairs, T.broadcast(T.uint16(bits), 2 * lanes)))


def low_bits(vector, mask: int, lanes: int):
    """The low bits of each byte."""
    return T.bitwise_and(vector, T.broadcast(T.uint8(mask), 4 * lanes))


def look_up_16(target: Target, table, index):
    """Bytes of a 16-entry table, which the vector ``table`` repeats; only the low four bits of an index count."""
    lanes = target.lanes
    if target.has("vbmi"):  # reads six bits of an index, all of which the repeated table serves
        return T.call_llvm_pure_intrin(f"uint8x{4 * lanes}", _PERMUTE_BYTES, table, index)
    return T.call_llvm_pure_intrin(f"uint8x{4 * lanes}", _SHUFFLE_BYTES[lanes], table, low_bits(index, 15, lanes))


def dot_bytes(target: Target, total, weights, codes):
    """Add to each 32-bit lane the products of its four bytes; ``weights`` unsigned on x86, signed on ARM."""
    lanes = target.lanes
    if target.has("neon"):
        return T.call_llvm_pure_intrin("int32x4", _DOT_SIGNED, total, weights, codes)
    if target.has("vnni") and lanes == 16:
        return T.call_llvm_pure_intrin("int32x16", _DOT_BYTES, total, weights, codes)
    # Sums of two products saturate at 16 bits: weights up to 128 times codes up to 127 stay below.
    pairs = T.call_llvm_pure_intrin(f"int16x{2 * lanes}", _MADD_BYTES[lanes], weights, codes)
    ones = T.broadcast(T.int16(1), 2 * lanes)
    return total + T.call_llvm_pure_intrin(f"int32x{lanes}", _MADD_WORDS[lanes], pairs, ones)


def broadcast_four(buffer, lanes: int, byte: str):
    """Four bytes from memory in every 32-bit lane."""
    word = T.reinterpret("int32", buffer.vload([0], f"{byte}x4"))
    return T.reinterpret(f"{byte}x{4 * lanes}", T.broadcast(word, lanes))

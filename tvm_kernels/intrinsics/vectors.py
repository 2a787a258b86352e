"""The instructions themselves: LLVM's names, by width of a vector register.

TVM checks nothing about them, LLVM only their types; `tests/kernels` compares each with its meaning.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from ..targets import Target

_PERMUTE_BYTES = "llvm.x86.avx512.permvar.qi.512"
_SHUFFLE_BYTES = {16: "llvm.x86.avx512.pshuf.b.512", 8: "llvm.x86.avx2.pshuf.b", 4: "llvm.aarch64.neon.tbl1.v16i8"}
_DOT_BYTES = "llvm.x86.avx512.vpdpbusd.512"
_MADD_BYTES = {16: "llvm.x86.avx512.pmaddubs.w.512", 8: "llvm.x86.avx2.pmadd.ub.sw"}
_MADD_WORDS = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}
_SHUFFLE_64_BYTES = "llvm.aarch64.neon.tbl4.v16i8"
_PERMUTE_FLOATS = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}
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


def look_up(target: Target, tables, row: int, words: int, index):
    """Bytes of a table of 16 or 64 entries, which is a row of 64-bit words in memory; every index lies within."""
    width = 4 * target.lanes
    if words == 2:
        halves = target.lanes // 2
        table = [tables.vload([row, 0], "int64x2")] * (halves // 2)
        repeated = tirx.Shuffle(table, [tirx.IntImm("int32", i) for i in range(halves)])
        shuffle = _SHUFFLE_BYTES[target.lanes]
        return T.call_llvm_pure_intrin(f"uint8x{width}", shuffle, T.reinterpret(f"uint8x{width}", repeated), index)
    if target.has("vbmi"):
        table = T.reinterpret("uint8x64", tables.vload([row, 0], "int64x8"))
        return T.call_llvm_pure_intrin("uint8x64", _PERMUTE_BYTES, table, index)
    quarters = [T.reinterpret("uint8x16", tables.vload([row, 2 * i], "int64x2")) for i in range(4)]
    return T.call_llvm_pure_intrin("uint8x16", _SHUFFLE_64_BYTES, *quarters, index)


def look_up_floats(table, index, lanes: int):
    """Floats of a table of 8 or 16 entries in a register; only the low three or four bits of an index count."""
    return T.call_llvm_pure_intrin(f"float32x{lanes}", _PERMUTE_FLOATS[lanes], table, index)


def take_bytes(one, other, chosen, lanes: int):
    """Bytes of ``other`` where their position in a 32-bit lane is chosen, of ``one`` elsewhere."""
    width = 4 * lanes
    return tirx.Shuffle([one, other], [tirx.IntImm("int32", i + width * chosen[i % 4]) for i in range(width)])


def look_up_32(target: Target, words, index):
    """Bytes of a 32-entry table, held in four 64-bit words; only the low five bits of an index count."""
    lanes = target.lanes
    if target.has("vbmi"):
        return T.call_llvm_pure_intrin(f"uint8x{4 * lanes}", _PERMUTE_BYTES, repeat_words(words, lanes), index)
    low = look_up_16(target, repeat_words(words[:2], lanes), index)
    high = look_up_16(target, repeat_words(words[2:], lanes), index)
    fifth = T.bitwise_and(index, T.broadcast(T.uint8(16), 4 * lanes))
    return T.Select(fifth == T.broadcast(T.uint8(0), 4 * lanes), low, high)


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


def broadcast_four(buffer, lanes: int, byte: str, *row: int):
    """Four bytes from memory, of a buffer's row where it has rows, in every 32-bit lane."""
    word = T.reinterpret("int32", buffer.vload([*row, 0], f"{byte}x4"))
    return T.reinterpret(f"{byte}x{4 * lanes}", T.broadcast(word, lanes))


def repeat_four(values, lanes: int):
    """Four constant bytes in every 32-bit lane."""
    word = int.from_bytes(bytes(values), "little")
    return T.reinterpret(f"uint8x{4 * lanes}", T.broadcast(T.uint32(word), lanes))

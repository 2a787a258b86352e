"""Small expressions that several definitions share."""

from __future__ import annotations

from tvm.script import tirx as T

INFINITY_BITS = 0x7F800000


def magnitude_bits(x):
    """Magnitudes of floats order like integers, and NaN lies above infinity: a maximum of bits misses neither."""
    return T.bitwise_and(T.reinterpret("int32", x), 0x7FFFFFFF)


def not_a_number():
    """What a row with a fault is multiplied by."""
    return T.reinterpret("float32", T.int32(0x7FC00000))


def round_half_even(x):
    """TVM's own ``nearbyint`` means the same and cannot be vectorised."""
    return T.call_llvm_pure_intrin("float32", "llvm.nearbyint", x)


def nibble(byte, half):
    """The low or the high four bits of a byte."""
    return T.bitwise_and(T.shift_right(byte, T.cast(half * 4, "uint8")), T.uint8(15))


def table_entry(words, code):
    """Byte ``code`` of a table that is held in 64-bit words.

    A table in a buffer of bytes would be the plainer form, but an index that depends on data can be matched by no
    tensor intrinsic; a shift can.
    """
    word = words[-1]
    for i in range(len(words) - 2, -1, -1):
        word = T.Select(code < T.uint8(8 * (i + 1)), words[i], word)
    shift = T.cast(T.bitwise_and(code, T.uint8(7)) * T.uint8(8), "int64")
    return T.cast(T.bitwise_and(T.shift_right(word, shift), T.int64(255)), "uint8")


def kept(value):
    """A product that stays rounded: without the fence LLVM may fuse it with an addition behind it."""
    return T.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence", value)

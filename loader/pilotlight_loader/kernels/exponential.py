"""e to a power of at most zero, in float32: nothing that is called, as a library's would be.

2^n times a polynomial of what is left, within half of the logarithm of 2 (Cephes' expf): off by
2e-7 of itself.
"""

from __future__ import annotations

import struct

from pilotlight_loader.kernels.assembly import Function

_LEAST = -87.0  # beyond it nothing: the smallest normal number is e^-87.3
_LOG2E = 1.4426950408889634
_LN2 = (0.693359375, -2.12194440e-4)  # the first is exact in few bits
_FACTORS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_BIAS, _MANTISSA = 127, 23  # of a float's exponent; bits


def exponential(write: Function, floats: str) -> str:
    """Of a register; NaN stays NaN."""
    kind, ints, bits = write.floats, write.ints(32), f"<{write.target.lanes} x i1>"
    fma = f"llvm.fma.v{write.target.lanes}f32"

    def plus(left: str, right: str, more: str) -> str:
        return write.call(kind, fma, kind, left, right, more)

    counts = write.let(f"fcmp ogt {kind} {floats}, {_splat(_LEAST)}")
    x = write.let(f"select {bits} {counts}, {kind} {floats}, {kind} {_splat(_LEAST)}")
    n = write.let(f"fmul {kind} {x}, {_splat(_LOG2E)}")
    n = write.call(kind, f"llvm.rint.v{write.target.lanes}f32", kind, n)
    for part in _LN2:
        x = plus(n, _splat(-part), x)
    sum_ = _splat(_FACTORS[0])
    for factor in (*_FACTORS[1:], 1.0, 1.0):
        sum_ = plus(sum_, x, _splat(factor))
    power = write.let(f"fptosi {kind} {n} to {ints}")
    power = write.let(f"add {ints} {power}, splat (i32 {_BIAS})")
    power = write.let(f"shl {ints} {power}, splat (i32 {_MANTISSA})")
    value = write.let(f"bitcast {ints} {power} to {kind}")
    value = write.let(f"fmul {kind} {value}, {sum_}")
    value = write.let(f"select {bits} {counts}, {kind} {value}, {kind} zeroinitializer")
    is_number = write.let(f"fcmp ord {kind} {floats}, zeroinitializer")
    return write.let(f"select {bits} {is_number}, {kind} {value}, {kind} {floats}")


def _splat(value: float) -> str:
    """Of what *value* is as a float; LLVM has a float's bits written as those of a double."""
    (nearest,) = struct.unpack("<f", struct.pack("<f", value))
    return f"splat (float 0x{struct.pack('>d', nearest).hex()})"

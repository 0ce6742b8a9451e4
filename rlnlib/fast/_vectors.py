"""Vectors of a processor as values in compiled loops: loads, stores, sums, products, and the transpose of a square.

Where a compiler has to find the vectors by itself, it must know that no two rows overlap, and it keeps no sum of many
products in registers. Here the loop says so. The vector is the processor's own, or a few of its smaller ones.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

_, _, _features = cpu_target.target_context.codegen().magic_tuple()  # by which numba tells the loops in its cache apart
#: Numbers of a vector: one of AVX-512, or two of smaller kinds, of float32.
LANES = 16 if "+avx512f" in _features.split(",") else 8


def _instructions(function) -> Any:
    """A function of compiled loops that says itself which instructions it is."""
    return intrinsic(function)


class Vector(types.Type):
    """``LANES`` numbers of one kind."""

    def __init__(self, number):
        self.number = number
        super().__init__(f"Vector({number})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.number).get_value_type(), LANES))


def _address(context, builder, kind, array, place):
    """Of a number in a contiguous array; no place is counted from the end."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [place])


@_instructions
def load(typing, array, place):
    """The vector that begins at a place of a flat array."""

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, array, *arguments)
        vector = ir.VectorType(context.get_value_type(array.dtype), LANES)
        found = builder.load(builder.bitcast(address, vector.as_pointer()))
        found.align = array.dtype.bitwidth // 8
        return found

    return Vector(array.dtype)(array, types.intp), generate


@_instructions
def store(typing, array, place, value):
    """Write a vector there."""

    def generate(context, builder, signature, arguments):
        *there, vector = arguments
        address = _address(context, builder, array, *there)
        builder.store(vector, builder.bitcast(address, vector.type.as_pointer()), align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@_instructions
def spread(typing, array, place):
    """The vector whose numbers are all the one at a place of a flat array."""

    def generate(context, builder, signature, arguments):
        number = builder.load(_address(context, builder, array, *arguments))
        places = ir.VectorType(ir.IntType(32), LANES)
        nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
        one = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, nothing, ir.Constant(places, [0] * LANES))

    return Vector(array.dtype)(array, types.intp), generate


@_instructions
def zeros(typing, array):
    """A vector of zeros, of the kind of numbers of an array."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(ir.VectorType(context.get_value_type(array.dtype), LANES), None)

    return Vector(array.dtype)(array), generate


def _define(function, instruction):
    @_instructions
    def apply(typing, a, b):
        def generate(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments, flags=("contract",))  # a b + c as one instruction

        return a(a, b), generate

    @overload(function)
    def of_vectors(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: apply(a, b)


_define(operator.add, "fadd")
_define(operator.iadd, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")


@_instructions
def transpose(typing, a, place, row, b, to, to_row):
    """Rows of ``b`` from the columns of ``a``: ``LANES`` rows of as many numbers, a row apart from the next."""

    def generate(context, builder, signature, arguments):
        source, place, row, target, to, to_row = arguments
        vector = ir.VectorType(context.get_value_type(a.dtype), LANES)

        def pointers(kind, array, first, step):
            for i in range(LANES):
                there = builder.add(first, builder.mul(step, ir.Constant(step.type, i)))
                yield builder.bitcast(_address(context, builder, kind, array, there), vector.as_pointer())

        rows = [builder.load(pointer) for pointer in pointers(a, source, place, row)]
        for one in rows:
            one.align = a.dtype.bitwidth // 8
        half, places = LANES // 2, ir.VectorType(ir.IntType(32), LANES)
        low, high = (ir.Constant(places, [k + i // 2 + i % 2 * LANES for i in range(LANES)]) for k in (0, half))
        for _ in range(LANES.bit_length() - 1):  # riffled with row i + half, halves of row i are rows 2 i and 2 i + 1
            rows = [builder.shuffle_vector(rows[i], rows[i + half], p) for i in range(half) for p in (low, high)]
        for one, pointer in zip(rows, pointers(b, target, to, to_row), strict=True):
            builder.store(one, pointer, align=b.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, b, types.intp, types.intp), generate

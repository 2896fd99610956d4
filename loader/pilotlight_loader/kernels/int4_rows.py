"""x @ weight.T for a row or two and a weight of 4 bits, whose codes are read once.

See int4_unit for the words.
"""

from __future__ import annotations

from pilotlight_loader.kernels.assembly import Function
from pilotlight_loader.kernels.int4_unit import REGISTERS, Int4Units, broadcast
from pilotlight_loader.kernels.short_rows import INTS, TARGET, entry, multiply

_COLUMNS = 4  # of a step


def functions(rows: int, block: int, kind: type[Int4Units]) -> list[Function]:
    """`int4_rows_2_32` and its like: body and entry."""
    name = f"{kind.NAME}_rows_{rows}_{block}"
    body = _body(f"{name}_body", rows, block, kind)
    return [body, entry(name, body, None)]


def _body(name: str, rows: int, block: int, kind: type[Int4Units]) -> Function:
    write = Function(name, TARGET)
    units = kind(write, block)
    x = units.x
    with write.shared(units.count) as unit:
        codes = units.begin(unit)
        floats = [write.zeros(write.floats, REGISTERS) for _ in range(rows)]
        with write.loop("0", x.groups) as group:
            ints = [write.zeros(INTS, REGISTERS) for _ in range(rows)]
            first = write.product(group, x.group)
            with write.loop(first, x.end(first), _COLUMNS) as column:
                units.prefetch(codes, column, _COLUMNS)
                for step in range(0, _COLUMNS, 2):
                    at = write.sum(column, str(step))
                    registers = units.registers(codes, at)
                    for row in range(rows):
                        place = write.sum(write.product(x.width, str(row)), at)
                        number = broadcast(write, write.at(x.numbers, place, "i16"))
                        for register, cell in zip(registers, ints[row], strict=True):
                            multiply(write, register, number, cell)
            scales = units.scales(unit, group)
            for row in range(rows):
                units.gather(str(row), group, scales, ints[row], floats[row])
        for row in range(rows):
            units.store(unit, str(row), [write.get(write.floats, cell) for cell in floats[row]])
    return write

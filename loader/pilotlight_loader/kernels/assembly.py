"""LLVM assembly of a kernel, instruction by instruction; what a kernel computes stands beside it.

A kernel is an entry, which prepares and starts OpenMP's threads, and a body that each runs. Both
take one pointer, to 64-bit words: addresses and sizes. Variables are memory (`cell`), which LLVM's
optimizer turns into registers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DECLARED = (
    "declare i32 @omp_get_thread_num()",
    "declare i32 @omp_get_num_threads()",
    "declare void @GOMP_parallel(ptr, ptr, i32, i32)",
    "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)",
)
_AHEAD_BYTES = 8192  # of a prefetch, into the second cache; beyond a page the CPU does not guess
_LINE_BYTES = 64
ADDED = 2  # words before a kernel's own: a count for shared(), and whether it runs by one thread
_PIECES = 8  # of a thread's share
_NAN = 0x7FC0  # in bfloat16


@dataclass(frozen=True, slots=True)
class Target:
    """What the assembly depends on."""

    lanes: int  # floats of a register
    rounds_to_bfloat: bool  # in one instruction


class Function:
    """`define void @name(ptr %words)`, being written."""

    def __init__(self, name: str, target: Target) -> None:
        self.name, self.target = name, target
        self._cells: list[str] = []
        self._lines: list[str] = []
        self._count = 0
        self.declared: set[str] = set()

    @property
    def floats(self) -> str:
        """The type of a register of floats."""
        return f"<{self.target.lanes} x float>"

    def ints(self, bits: int) -> str:
        """As many integers as a register has floats."""
        return f"<{self.target.lanes} x i{bits}>"

    def do(self, instruction: str) -> None:
        """An instruction without a result."""
        self._lines.append(f"  {instruction}")

    def let(self, instruction: str) -> str:
        """The name of an instruction's result."""
        self._count += 1
        self.do(f"%v{self._count} = {instruction}")
        return f"%v{self._count}"

    def call(self, result: str, name: str, kind: str, *values: str) -> str:
        """One of LLVM's own functions, which takes *values* that are all of that *kind*."""
        self.declared.add(f"declare {result} @{name}({', '.join([kind] * len(values))})")
        arguments = ", ".join(f"{kind} {value}" for value in values)
        return self.let(f"call {result} @{name}({arguments})")

    def word(self, index: int, kind: str = "i64") -> str:
        """An argument: `i64`, or `ptr`; after those that run() adds."""
        return self.let(f"load {kind}, ptr {self.at('%words', str(index + ADDED), 'i64')}")

    def at(self, pointer: str, index: str, element: str) -> str:
        """The address of the *index*-th element."""
        return self.let(f"getelementptr {element}, ptr {pointer}, i64 {index}")

    def sum(self, *terms: str) -> str:
        total = terms[0]
        for term in terms[1:]:
            total = self.let(f"add i64 {total}, {term}")
        return total

    def product(self, left: str, right: str) -> str:
        return self.let(f"mul i64 {left}, {right}")

    def least(self, left: str, right: str) -> str:
        return self.call("i64", "llvm.smin.i64", "i64", left, right)

    def cell(self, kind: str, value: str) -> str:
        """A variable, and its first value."""
        self._count += 1
        name = f"%c{self._count}"
        self._cells.append(f"  {name} = alloca {kind}")
        self.put(kind, value, name)
        return name

    def zeros(self, kind: str, count: int) -> list[str]:
        """So many variables, of registers."""
        return [self.cell(kind, "zeroinitializer") for _ in range(count)]

    def columns(self, width: str) -> Iterator[str]:
        """Yields twice, for what is done with a register at a time, and with what is left over."""
        lanes = self.target.lanes
        whole = self.let(f"and i64 {width}, {-lanes}")
        with self.loop("0", whole, lanes) as i:
            yield i
        with self.one_by_one(), self.loop(whole, width) as i:
            yield i

    @contextlib.contextmanager
    def one_by_one(self) -> Iterator[None]:
        """Registers have one lane meanwhile: for what is no multiple of them."""
        whole, self.target = self.target, Target(1, False)
        yield
        self.target = whole

    def prefetch(self, pointer: str, nbytes: int) -> None:
        """What a thread will want that reads on from *pointer*, so many bytes at a time."""
        for offset in range(_AHEAD_BYTES, _AHEAD_BYTES + nbytes, _LINE_BYTES):
            address = self.at(pointer, str(offset), "i8")
            self.do(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 2, i32 1)")

    def get(self, kind: str, cell: str) -> str:
        return self.let(f"load {kind}, ptr {cell}")

    def put(self, kind: str, value: str, cell: str) -> None:
        self.do(f"store {kind} {value}, ptr {cell}")

    @contextlib.contextmanager
    def loop(self, start: str, stop: str, step: int = 1) -> Iterator[str]:
        """Yields the index; *start* may be beyond *stop*."""
        self._count += 1
        head, body, end = (f"{part}{self._count}" for part in ("head", "body", "end"))
        counter = self.cell("i64", start)
        self.do(f"br label %{head}")
        self._lines.append(f"{head}:")
        index = self.get("i64", counter)
        going = self.let(f"icmp slt i64 {index}, {stop}")
        self.do(f"br i1 {going}, label %{body}, label %{end}")
        self._lines.append(f"{body}:")
        yield index
        self.put("i64", self.sum(index, str(step)), counter)
        self.do(f"br label %{head}")
        self._lines.append(f"{end}:")

    @contextlib.contextmanager
    def shared(self, total: str) -> Iterator[str]:
        """Yields the index of each of *total* things that this thread does, as they come.

        In pieces, an eighth of a thread's share each, so that one that is slower, as the CPU does
        something else beside it, does fewer. The first word counts those that are begun.
        """
        threads = self.let("call i32 @omp_get_num_threads()")
        pieces = self.product(self.let(f"zext i32 {threads} to i64"), str(_PIECES))
        up = self.let(f"sub i64 {self.sum(total, pieces)}, 1")
        piece = self.let(f"udiv i64 {up}, {pieces}")
        piece = self.call("i64", "llvm.smax.i64", "i64", piece, "1")
        self._count += 1
        head, body, end = (f"{part}{self._count}" for part in ("take", "work", "done"))
        self.do(f"br label %{head}")
        self._lines.append(f"{head}:")
        start = self.let(f"atomicrmw add ptr %words, i64 {piece} monotonic")
        left = self.let(f"icmp slt i64 {start}, {total}")
        self.do(f"br i1 {left}, label %{body}, label %{end}")
        self._lines.append(f"{body}:")
        with self.loop(start, self.least(self.sum(start, piece), total)) as index:
            yield index
        self.do(f"br label %{head}")
        self._lines.append(f"{end}:")

    def fma(self, left: str, right: str, cell: str) -> None:
        """cell += left * right, in floats."""
        kind = self.floats
        name = f"llvm.fma.v{self.target.lanes}f32"
        self.put(kind, self.call(kind, name, kind, left, right, self.get(kind, cell)), cell)

    def splat(self, value: str) -> str:
        """A float in every lane."""
        one = self.let(f"insertelement {self.floats} poison, float {value}, i64 0")
        mask = f"<{self.target.lanes} x i32> zeroinitializer"
        return self.let(f"shufflevector {self.floats} {one}, {self.floats} poison, {mask}")

    def from_bfloats(self, pointer: str) -> str:
        """A register of floats from as many bfloat16."""
        halves = self.let(f"load {self.ints(16)}, ptr {pointer}, align 2")
        return self._from_halves(self.let(f"zext {self.ints(16)} {halves} to {self.ints(32)}"))

    def _from_halves(self, halves: str) -> str:
        """Integers of 32 bits, whose lower half is a bfloat16, as floats."""
        shifted = self.let(f"shl {self.ints(32)} {halves}, splat (i32 16)")
        return self.let(f"bitcast {self.ints(32)} {shifted} to {self.floats}")

    def store(self, floats: str, pointer: str) -> None:
        """A register of floats as bfloat16, rounded to the nearest, ties to even; NaN stays NaN."""
        if self.target.rounds_to_bfloat:
            kind = f"<{self.target.lanes} x bfloat>"
            rounded = self.let(f"fptrunc {self.floats} {floats} to {kind}")
            self.do(f"store {kind} {rounded}, ptr {pointer}, align 2")
            return
        self.store_rounded(self.rounded(floats), pointer)

    def rounded(self, floats: str) -> str:
        """Floats as store() rounds them, in a register; numbers below the normal ones stay, too."""
        kind = self.ints(32)
        bits = self._rounded(floats, self.floats, kind, "splat (i32 {})")
        are = self.let(f"fcmp ord {self.floats} {floats}, zeroinitializer")
        bits = self.let(f"select {self.ints(1)} {are}, {kind} {bits}, {kind} splat (i32 {_NAN})")
        return self._from_halves(bits)

    def store_rounded(self, floats: str, pointer: str) -> None:
        """What rounded() gave, as bfloat16."""
        bits = self.let(f"bitcast {self.floats} {floats} to {self.ints(32)}")
        high = self.let(f"lshr {self.ints(32)} {bits}, splat (i32 16)")
        narrow = self.let(f"trunc {self.ints(32)} {high} to {self.ints(16)}")
        self.do(f"store {self.ints(16)} {narrow}, ptr {pointer}, align 2")

    def store_one(self, value: str, pointer: str) -> None:
        """A float as bfloat16; NaN stays NaN."""
        rounded = self._rounded(value, "float", "i32", "{}")
        is_number = self.let(f"fcmp ord float {value}, 0.0")
        kept = self.let(f"select i1 {is_number}, i32 {rounded}, i32 {_NAN}")
        narrow = self.let(f"trunc i32 {kept} to i16")
        self.do(f"store i16 {narrow}, ptr {pointer}, align 2")

    def _rounded(self, value: str, floats: str, ints: str, constant: str) -> str:
        bits = self.let(f"bitcast {floats} {value} to {ints}")
        high = self.let(f"lshr {ints} {bits}, {constant.format(16)}")
        odd = self.let(f"and {ints} {high}, {constant.format(1)}")
        raised = self.let(f"add {ints} {bits}, {odd}")
        raised = self.let(f"add {ints} {raised}, {constant.format(0x7FFF)}")
        return self.let(f"lshr {ints} {raised}, {constant.format(16)}")

    def total(self, cells: list[str]) -> str:
        """The sum of all lanes of all *cells*."""
        kind = self.floats
        values = [self.get(kind, cell) for cell in cells]
        while len(values) > 1:
            left, right = values.pop(0), values.pop(0)
            values.append(self.let(f"fadd {kind} {left}, {right}"))
        name = f"llvm.vector.reduce.fadd.v{self.target.lanes}f32"
        self.declared.add(f"declare float @{name}(float, {kind})")
        return self.let(f"call reassoc float @{name}(float 0.0, {kind} {values[0]})")

    def run_by_threads(self, body: Function) -> None:
        """Or by this one alone, as the second word says."""
        self.do("store i64 0, ptr %words")
        alone = self.let(f"load i64, ptr {self.at('%words', '1', 'i64')}")
        alone = self.let(f"icmp ne i64 {alone}, 0")
        self._count += 1
        one, all_, end = (f"{part}{self._count}" for part in ("one", "all", "end"))
        self.do(f"br i1 {alone}, label %{one}, label %{all_}")
        self._lines.append(f"{one}:")
        self.do(f"call void @{body.name}(ptr %words)")
        self.do(f"br label %{end}")
        self._lines.append(f"{all_}:")
        self.do(f"call void @GOMP_parallel(ptr @{body.name}, ptr %words, i32 0, i32 0)")
        self.do(f"br label %{end}")
        self._lines.append(f"{end}:")

    def text(self) -> str:
        lines = [f"define void @{self.name}(ptr %words) {{", *self._cells, *self._lines]
        return "\n".join([*lines, "  ret void", "}"])


def module(functions: Sequence[Function]) -> str:
    """All of them as one module, with what they call."""
    declared = sorted(set().union(*(function.declared for function in functions)))
    return "\n".join([*DECLARED, *declared, *(function.text() for function in functions)])

"""Writes the function that runs a chain of launches alternately (see program.Chain), as LLVM IR.

    void NAME(ptr buffers, ptr dims, i64 begin, i64 end)      shares begin .. end-1

`buffers` holds the addresses of all launches' buffers, launch by launch, and then that of the
windows' memory. A call uses the windows of its first share. For each round, a table says where each
window begins and how much of it is kept, and then which items each launch computes. Further tables
hold the sizes of the launches that have any; all of these are known.
"""

from __future__ import annotations

from collections.abc import Iterator

from bessemer.compiler.codegen.body.body_writer import BodyWriter
from bessemer.compiler.ir.program import Chain, Launch


def chain_text(step: Chain, name: str) -> str:
    """The function and its tables. It calls the launches' kernels."""
    writer = _Writer(step, name)
    writer.write()
    head = f"define internal void @{name}(ptr %buffers, ptr %dims, i64 %begin, i64 %end) nounwind"
    body = "\n".join(writer.lines)
    return f"{_table(step, name)}{head} {{\n{body}\n}}\n"


def places(step: Chain) -> Iterator[tuple[int, Launch]]:
    """The launches, each with the position of its first buffer."""
    place = 0
    for launch in step.launches:
        yield place, launch
        place += len(launch.values)


def _table(step: Chain, name: str) -> str:
    rows = [
        [
            *(n for window in step.windows for n in (window.begins[number], window.kept[number])),
            *(n for pair in items for n in pair),
        ]
        for number, items in enumerate(step.items)
    ]
    numbers = [f"i64 {number}" for row in rows for number in row]
    sizes = (
        (f"sizes{number}", [f"i64 {size}" for size in launch.sizes])
        for number, launch in enumerate(step.launches)
        if launch.sizes
    )
    return "".join(
        f"@{name}_{what} = internal unnamed_addr constant [{len(listed)} x i64] "
        f"[{', '.join(listed)}]\n"
        for what, listed in (("table", numbers), *sizes)
    )


class _Writer(BodyWriter):
    """Writes the function: a loop over rounds, straight code inside."""

    def __init__(self, step: Chain, name: str) -> None:
        super().__init__()
        self.step = step
        self.name = name
        self.columns = 2 * (len(step.windows) + len(step.launches))

    def write(self) -> None:
        step = self.step
        self.begin("entry")
        memory = self._enter()
        first, last = (self._round_of(share) for share in ("%begin", "%end"))
        self.put("br label %test")
        self.begin("test")
        self.put(f"%round = phi i64 [ {first}, %entry ], [ %next, %ended ]")
        going = self.let(f"icmp slt i64 %round, {last}")
        self.put(f"br i1 {going}, label %start, label %leave")
        self.begin("start")
        self.put(f"%row = mul i64 %round, {self.columns}")
        self.put(f"%is_first = icmp eq i64 %round, {first}")
        self._move_windows(memory)
        for number, (buffers, launch) in enumerate(places(step)):
            self._run(number, buffers, launch)
        self.put("br label %ended")
        self.begin("ended")
        self.put("%next = add i64 %round, 1")
        self.put("br label %test")
        self.begin("leave")
        self.put("ret void")

    def _enter(self) -> str:
        """Declares the variables of a call: addresses, and how far each launch and window has got.
        Returns the address of the call's windows."""
        step = self.step
        buffers = sum(len(launch.values) for launch in step.launches)
        self.put(f"%own = alloca [{buffers} x ptr], align 16")
        self.put(f"%done = alloca [{len(step.launches)} x i64], align 16")
        self.put(f"%began = alloca [{len(step.windows)} x i64], align 16")
        arrays = f"ptr %own, ptr %buffers, i64 {8 * buffers}"
        self.put(f"call void @llvm.memcpy.p0.p0.i64({arrays}, i1 false)")
        for number in range(len(step.launches)):
            self.put(f"store i64 0, ptr {self._entry('%done', number)}")
        last = self.let(f"getelementptr ptr, ptr %buffers, i64 {buffers}")
        memory = self.let(f"load ptr, ptr {last}")
        distance = self.let(f"mul i64 %begin, {sum(window.size for window in step.windows)}")
        return self.let(f"getelementptr i8, ptr {memory}, i64 {distance}")

    def _round_of(self, share: str) -> str:
        """The first round of a share."""
        scaled = self.let(f"mul i64 {share}, {len(self.step.items)}")
        return self.let(f"udiv i64 {scaled}, {self.step.shares}")

    def _entry(self, array: str, number: int) -> str:
        return self.let(f"getelementptr i64, ptr {array}, i64 {number}")

    def _column(self, number: int) -> str:
        """A number in the table's row for this round."""
        place = self.let(f"add i64 %row, {number}")
        entry = self.let(f"getelementptr i64, ptr @{self.name}_table, i64 {place}")
        return self.let(f"load i64, ptr {entry}")

    def _move_windows(self, memory: str) -> None:
        """Moves each window to its place in this round, together with the part of its contents that
        is kept."""
        for number, window in enumerate(self.step.windows):
            begin, kept = self._column(2 * number), self._column(2 * number + 1)
            before = self._entry("%began", number)
            keep, moved = self.label("keep"), self.label("moved")
            # Items before a call's first round are computed by other calls.
            nothing = self.let(f"icmp eq i64 {kept}, 0")
            none = self.let(f"or i1 %is_first, {nothing}")
            self.put(f"br i1 {none}, label %{moved}, label %{keep}")
            self.begin(keep)
            step = self.let(f"sub i64 {begin}, {self.let(f'load i64, ptr {before}')}")
            source = self.let(f"getelementptr i8, ptr {memory}, i64 {step}")
            arrays = f"ptr {memory}, ptr {source}, i64 {kept}"
            self.put(f"call void @llvm.memmove.p0.p0.i64({arrays}, i1 false)")
            self.put(f"br label %{moved}")
            self.begin(moved)
            self.put(f"store i64 {begin}, ptr {before}")
            back = self.let(f"sub i64 0, {begin}")
            base = self.let(f"getelementptr i8, ptr {memory}, i64 {back}")
            for place, launch in places(self.step):
                for at, value in enumerate(launch.values, place):
                    if value is window.value:
                        slot = self.let(f"getelementptr ptr, ptr %own, i64 {at}")
                        self.put(f"store ptr {base}, ptr {slot}")
            memory = self.let(f"getelementptr i8, ptr {memory}, i64 {window.size}")

    def _run(self, number: int, place: int, launch: Launch) -> None:
        """Runs the items of a launch that this round needs and that have not been computed yet."""
        column = 2 * (len(self.step.windows) + number)
        begin, end = self._column(column), self._column(column + 1)
        done = self._entry("%done", number)
        reached = self.let(f"load i64, ptr {done}")
        is_behind = self.let(f"icmp sgt i64 {reached}, {begin}")
        begin = self.let(f"select i1 {is_behind}, i64 {reached}, i64 {begin}")
        some = self.let(f"icmp slt i64 {begin}, {end}")
        run, ready = self.label("run"), self.label("ready")
        self.put(f"br i1 {some}, label %{run}, label %{ready}")
        self.begin(run)
        own = self.let(f"getelementptr ptr, ptr %own, i64 {place}")
        sizes = f"@{self.name}_sizes{number}" if launch.sizes else "%dims"
        self.put(f"call void @{launch.kernel.name}(ptr {own}, ptr {sizes}, i64 {begin}, i64 {end})")
        self.put(f"store i64 {end}, ptr {done}")
        self.put(f"br label %{ready}")
        self.begin(ready)

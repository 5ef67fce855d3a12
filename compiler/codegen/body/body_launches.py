"""Writes the launches and copies of a run body, each by one thread or divided into shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bessemer.compiler.codegen.body.body_addresses import BodyAddresses
from bessemer.compiler.codegen.body.chain import chain_text
from bessemer.compiler.codegen.body.copies import BLOCK, copy_name
from bessemer.compiler.codegen.body.shares import GRAIN, SHARE, work_of, work_of_copy
from bessemer.compiler.codegen.support.clock import Clocks
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import TEAM, Kernel
from bessemer.compiler.ir.program import Chain, Copy, Launch, MemoryPlan, Program
from bessemer.runtime.artifact import Status


class BodyLaunches(BodyAddresses):
    """A body's lines with launches, chains of them, and copies. `chains` are the functions that the
    chains call; `copies_shared` says whether the function that copies blocks is needed."""

    def __init__(
        self,
        program: Program,
        plan: MemoryPlan,
        prefix: str,
        messages: Mapping[Kernel, Sequence[str]],
        profile: bool,
    ) -> None:
        super().__init__(program, plan, prefix)
        self.messages = messages
        self.chains: list[str] = []
        self.copies_shared = False
        self.clocks = Clocks(profile, self.let, self.put)

    def launch(self, step: Launch) -> None:
        """Calls a kernel, or has threads call it for shares of its parallel loop; then checks its
        faults."""
        kernel = step.kernel
        checks = self.messages.get(kernel, ())
        for number, value in enumerate(step.values):
            self.store_at("ptr", self.address(value), "%buffers", number)
        if checks:
            self.store_at("ptr", "%fault", "%buffers", len(step.values))
            self.put("store i32 0, ptr %fault")
        for number, size in enumerate(step.sizes):
            self.store_at("i64", self.sizes.value(size), "%arguments", number)
        values = dict(zip(kernel.symbols, step.sizes, strict=True))
        extent = self.sizes.value(dims.rename(kernel.parallel_extent, values))
        work = dims.rename(kernel.operations, values)
        start = self.clocks.start()
        if kernel.has_team:
            self._launch_team(step, work)
        elif self._is_serial(extent, whole := work_of(step, self.bound)):
            self.put(f"call void @{kernel.name}(ptr %buffers, ptr %arguments, i64 0, i64 {extent})")
        else:
            shares = self._shares(whole)
            name = self.clocks.share_of(kernel.name)
            self.put(
                f"call void @bessemer_parallel(ptr %context, ptr @{name}, ptr %buffers, "
                f"ptr %arguments, i64 {extent}, i64 {shares})"
            )
        self.clocks.stop(start)
        if checks:
            self._check_fault(step, checks)
        self.read_back(step)

    def chain(self, step: Chain) -> None:
        """A chain of launches, whose shares are dealt to threads like those of one kernel."""
        if any(self.messages.get(launch.kernel) for launch in step.launches):
            raise InternalError("a kernel of a chain can fail: nothing would tell of it")
        name = f"{self.prefix}_chain{len(self.chains)}"
        self.chains.append(chain_text(step, name))
        inside = {window.value for window in step.windows}
        values = [value for launch in step.launches for value in launch.values]
        for number, value in enumerate((*values, step.memory)):
            if value not in inside:
                self.store_at("ptr", self.address(value), "%buffers", number)
        work = dims.total(work_of(launch, self.bound) for launch in step.launches)
        self.put(
            f"call void @bessemer_parallel(ptr %context, ptr @{name}, ptr %buffers, "
            f"ptr %arguments, i64 {step.shares}, i64 {self._shares(work)})"
        )

    def _launch_team(self, step: Launch, work: Size) -> None:
        kernel = step.kernel
        most = self.sizes.value(dims.minimum(kernel.members, dims.floordiv(work, GRAIN)))
        place = kernel.symbols.index(TEAM)
        name = self.clocks.share_of(kernel.name)
        self.put(
            f"call void @bessemer_join_team(ptr %context, ptr @{name}, ptr %buffers, "
            f"ptr %arguments, i64 {len(step.values) + 1}, i64 {place}, i64 {most})"
        )

    def _is_serial(self, extent: str, work: Size) -> bool:
        return extent == "1" or (isinstance(work, int) and work < 2 * SHARE)

    def _shares(self, work: Size) -> str:
        """The number of threads that this much work is enough for."""
        if isinstance(work, int):
            return str(work // SHARE)
        return self.let(f"udiv i64 {self.sizes.value(dims.maximum(work, 1))}, {SHARE}")

    def _check_fault(self, step: Launch, checks: Sequence[str]) -> None:
        fault = self.let("load i32, ptr %fault")
        where = ", ".join(step.sources)
        for number, message in enumerate(checks, 1):
            hit = self.let(f"icmp eq i32 {fault}, {number}")
            text = f"{where}: {message}" if where else message
            self.fail_if(hit, Status.INDEX_OUT_OF_RANGE, text)

    def copy(self, step: Copy) -> None:
        """Copies a value, unless it is in the same place already."""
        start = self.clocks.start()
        if self.root(step.source) is not self.root(step.target):
            if self.may_coincide(step):
                with self.unless(self.coincide(step.source, step.target)):
                    self._copy_bytes(step)
            else:
                self._copy_bytes(step)
        self.clocks.stop(start)

    def _copy_bytes(self, step: Copy) -> None:
        source, target = self.address(step.source), self.address(step.target)
        nbytes = step.source.type.nbytes
        size, work = self.sizes.value(nbytes), work_of_copy(nbytes)
        if self._is_serial("", work):
            arrays = f"ptr {target}, ptr {source}, i64 {size}"
            self.put(f"call void @llvm.memcpy.p0.p0.i64({arrays}, i1 false)")
            return
        self.store_at("ptr", source, "%buffers", 0)
        self.store_at("ptr", target, "%buffers", 1)
        self.store_at("i64", size, "%arguments", 0)
        blocks = self.sizes.value(dims.floordiv(nbytes + BLOCK - 1, BLOCK))
        self.copies_shared = True
        name = self.clocks.share_of(copy_name(self.prefix))
        self.put(
            f"call void @bessemer_parallel(ptr %context, ptr @{name}, ptr %buffers, "
            f"ptr %arguments, i64 {blocks}, i64 {self._shares(work)})"
        )

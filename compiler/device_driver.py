"""The pipeline for GPUs: from a graph to a device program, after the passes of pass_order.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bessemer.compiler.codegen.artifact.link import Bytes, weights_digest
from bessemer.compiler.codegen.artifact.parts import compiling_threads
from bessemer.compiler.codegen.ptx.kernel_code import DeviceCode, TensorMapPlan
from bessemer.compiler.codegen.ptx.module import ptx_module
from bessemer.compiler.codegen.ptx.tiles.contraction import emit_kernel
from bessemer.compiler.driver import compiling
from bessemer.compiler.errors import InternalError, UnsupportedError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.device import DeviceLaunch, ThreadMapping
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.program import (
    Alias,
    BindDims,
    Branch,
    Copy,
    MemoryPlan,
    Program,
    Repeat,
    RequireFinite,
    Step,
    Steps,
)
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.memory_plan.plan_memory import is_data_dependent, plan_memory
from bessemer.compiler.options import Options
from bessemer.compiler.pack_weights import pack_weights
from bessemer.compiler.pass_order import Pass, passes_of
from bessemer.compiler.passes.convolution.decompose_conv_transpose import (
    decompose_conv_transpose,
    decompose_to_convolutions,
)
from bessemer.compiler.passes.convolution.separate_padding import separate_padding
from bessemer.compiler.passes.convolution.sum_tap_planes import sum_tap_planes
from bessemer.compiler.passes.precision.compute_half_wide import compute_half_wide
from bessemer.compiler.passes.precision.keep_narrow_weights import keep_narrow_weights
from bessemer.compiler.passes.precision.multiply_pairs import multiply_pairs
from bessemer.compiler.passes.precision.store_bfloat16 import (
    store_bfloat16,
    store_bfloat16_everywhere,
)
from bessemer.compiler.passes.quantization.decode_weights import decode_weights
from bessemer.compiler.passes.sums.mask_leaves import mask_leaves
from bessemer.compiler.passes.sums.split_sums import split_sums
from bessemer.compiler.passes.sums.total_gate_gradients import total_gate_gradients
from bessemer.compiler.schedule.device.program import build_device_program
from bessemer.compiler.signature import RUNTIME_NAMES, describe
from bessemer.compiler.step_log import StepLog
from bessemer.compiler.targets.nvptx import DeviceTarget
from bessemer.runtime.cuda import artifact
from bessemer.runtime.cuda.artifact import ALIGNMENT, DeviceProgram, Entry, Place

Form = tuple[Kernel, ThreadMapping]


@dataclass(frozen=True, eq=False)
class DeviceCompilation:
    """Everything that one compilation for a GPU made."""

    graph: Graph
    program: Program
    plan: MemoryPlan
    codes: tuple[DeviceCode, ...]
    artifact: DeviceProgram
    weights: Bytes
    target: DeviceTarget
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def kernels(self) -> list[Kernel]:
        """What was launched, each kernel once."""
        return [kernel for kernel, _ in _forms(self.program.steps)]


_FOR_PROCESSORS: tuple[Pass, ...] = (
    compute_half_wide,  # a GPU computes with 16-bit floats
    keep_narrow_weights,  # a product of two types has no kernel
    mask_leaves,  # each thread walks through the trees
    multiply_pairs,  # byte weights are decoded for all rows, by decode_weights
    separate_padding,  # kernels check the borders themselves
    split_sums,  # all multiprocessors have a cache in common
    sum_tap_planes,  # convolutions to few channels stay convolutions
    total_gate_gradients,  # in a recurrence each row has threads of its own
)
_INSTEAD: dict[Pass, Pass] = {
    store_bfloat16: store_bfloat16_everywhere,
    decompose_conv_transpose: decompose_to_convolutions,
}


def device_passes(options: Options, target: DeviceTarget) -> tuple[Pass, ...]:
    """The passes of a compilation for a GPU: those for processors, except some."""
    steps = [step for step in passes_of(options, target) if step not in _FOR_PROCESSORS]
    return (decode_weights, *(_INSTEAD.get(step, step) for step in steps))


def build_for_device(graph: Graph, options: Options, target: DeviceTarget) -> DeviceCompilation:
    """All steps from a graph to PTX. Raises CompileError for what cannot be compiled."""
    if graph.strings is not None:
        raise UnsupportedError(f"{graph.name}: models with strings are not compiled for GPUs.")
    log = StepLog(options.dump, options.verify)
    with compiling():
        return _build(graph, log, options, target)


def _build(graph: Graph, log: StepLog, options: Options, target: DeviceTarget) -> DeviceCompilation:
    log.graph("input", graph)
    for step in device_passes(options, target):
        graph = log.run(step, graph)
    program = log.timed(
        "schedule",
        lambda: build_device_program(
            graph, target, options.optimize, options.precision, options.tuning
        ),
    )
    plan = log.timed("plan_memory", lambda: plan_memory(program, ALIGNMENT, in_run=False))
    forms = _forms(program.steps)
    log.kernels([kernel for kernel, _ in forms])
    codes = log.timed("codegen", lambda: [emit_kernel(k, target, m) for k, m in forms])
    log.text("llvm.ll", "\n".join(code.text for code in codes))
    with compiling_threads() as workers:
        ptx = log.timed("llvm", lambda: ptx_module(codes, target, workers))
    log.text("kernels.ptx", ptx)
    weights = log.timed("weights", lambda: pack_weights(program, plan))
    signature = describe(program, weights, weights_digest(weights), target, options)
    writer = _ProgramWriter(program, plan, dict(zip(forms, range(len(forms)))), codes)
    made = DeviceProgram(
        signature=signature,
        level=target.sm,
        exact=target.has_wgmma,
        ptx=ptx,
        kernels=tuple(_kernel(code) for code in codes),
        steps=writer.steps(program.steps),
        ends=tuple(writer.entry(end) for end in plan.ends),
        dependent_outputs={
            number: writer.place(value)
            for number, value in enumerate(program.outputs)
            if is_data_dependent(program, value)
        },
        required=tuple(
            artifact.Required(writer.entry(size), where) for size, where in program.required.items()
        ),
    )
    return DeviceCompilation(graph, program, plan, tuple(codes), made, weights, target, log.seconds)


def _forms(steps: Steps) -> list[Form]:
    """The kernels that steps launch, each once for every mapping, in order of first use."""
    found = (step for step in launches(steps) if isinstance(step, DeviceLaunch))
    return list(dict.fromkeys((launch.kernel, launch.mapping) for launch in found))


def _kernel(code: DeviceCode) -> artifact.DeviceKernel:
    return artifact.DeviceKernel(
        code.name,
        code.mapping.threads,
        code.shared_bytes,
        code.messages,
        bool(code.sets),
        len(code.tensor_maps),
    )


class _ProgramWriter:
    """Turns a program's steps into data."""

    def __init__(
        self,
        program: Program,
        plan: MemoryPlan,
        forms: dict[Form, int],
        codes: Sequence[DeviceCode],
    ) -> None:
        self.program = program
        self.plan = plan
        self.forms = forms
        self.codes = codes

    def entry(self, size: Size) -> Entry:
        """A size as the runtime reads it."""
        expanded = self.program.expanded(size)
        return expanded if isinstance(expanded, int) else str(expanded)

    def place(self, value: Value) -> Place:
        """Where a value is."""
        plan, program = self.plan, self.program
        value = plan.aliases.get(value, value)
        if value in plan.offsets:
            return Place("arena", self.entry(plan.offsets[value]))
        if value in program.inputs:
            return Place("input", 0, program.inputs.index(value))
        if value in program.outputs:
            return Place("output", 0, program.outputs.index(value))
        if value in plan.weight_offsets:
            return Place("weights", plan.weight_offsets[value])
        raise InternalError(f"the memory plan has no place for a value of type {value.type}")

    def steps(self, steps: Sequence[Step]) -> tuple[artifact.DeviceStep, ...]:
        """The steps, without those that need no code."""
        return tuple(self._step(step) for step in steps if not isinstance(step, Alias))

    def _step(self, step: Step) -> artifact.DeviceStep:
        match step:
            case DeviceLaunch():
                return self._launch(step)
            case Copy(source, target):
                size = self.entry(source.type.nbytes)
                return artifact.CopyStep(self.place(source), self.place(target), size)
            case BindDims(value, symbols, sources):
                return artifact.BindStep(self.place(value), symbols, ", ".join(sources))
            case RequireFinite(value, name):
                dtype = RUNTIME_NAMES[value.type.dtype.name]
                return artifact.FiniteStep(self.place(value), dtype, name)
            case Branch(condition, then, otherwise, sources):
                sides = self.steps(then), self.steps(otherwise)
                return artifact.BranchStep(self.place(condition), *sides, ", ".join(sources))
            case Repeat():
                trips = None if step.trips is None else self.place(step.trips)
                going = None if step.condition is None else self.place(step.condition)
                where, body = self.place(step.iteration), self.steps(step.body)
                named = ", ".join(step.sources)
                return artifact.RepeatStep(trips, going, where, body, step.count, named)
            case _:
                raise InternalError(f"no step of a GPU for {type(step).__name__}")

    def _launch(self, step: DeviceLaunch) -> artifact.LaunchStep:
        kernel = step.kernel
        number = self.forms[kernel, step.mapping]
        code = self.codes[number]
        values = dict(zip(kernel.symbols, step.sizes, strict=True))
        return artifact.LaunchStep(
            number,
            tuple(self.place(value) for value in step.values),
            tuple(self.entry(size) for size in step.sizes),
            self.entry(step.grid),
            ", ".join(step.sources),
            tuple((kernel.symbols.index(name), name) for name in code.sets),
            tuple(self._tensor_map(plan, values) for plan in code.tensor_maps),
        )

    def _tensor_map(self, plan: TensorMapPlan, values: dict[str, Size]) -> artifact.TensorMap:
        def entry(size: Size) -> Entry:
            return self.entry(dims.rename(size, values))

        windows = plan.windows
        walk = None
        if windows is not None:
            walk = artifact.WindowWalk(
                windows.lower, windows.upper, windows.channels, windows.pixels, windows.steps
            )
        return artifact.TensorMap(
            buffer=plan.buffer,
            dtype=RUNTIME_NAMES[plan.dtype.name],
            offset=entry(plan.offset * plan.dtype.bytes),
            shape=tuple(entry(size) for size in plan.shape),
            strides=tuple(entry(size) for size in plan.strides),
            box=plan.box,
            swizzle=plan.swizzle,
            windows=walk,
        )

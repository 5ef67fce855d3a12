"""Writes the functions of a training library that run a graph, as LLVM IR: they collect its arrays
first."""

from __future__ import annotations

from bessemer.compiler.codegen.training.library_parts import Library, Part
from bessemer.runtime.artifact import ArrayInfo


def calls_text(library: Library) -> str:
    """A template of PREFIX_reserve, _train_step, _evaluate and _predict."""
    calls = (_reserve(library), _train_step(library), _evaluate(library), _predict(library))
    return "".join(calls)


def _sizes(part: Part, name: str) -> str:
    """Code that fills `%name`, the dims of a graph, from those of the library."""
    symbols = len(part.body.signature.symbols)
    lines = [f"  %{name} = alloca [{symbols + 1} x i64]\n"]
    for place, number in enumerate(part.dims):
        lines.append(
            f"  %{name}.from{place} = getelementptr i64, ptr %dims, i64 {number}\n"
            f"  %{name}.at{place} = getelementptr i64, ptr %{name}, i64 {place}\n"
            f"  %{name}.size{place} = load i64, ptr %{name}.from{place}\n"
            f"  store i64 %{name}.size{place}, ptr %{name}.at{place}\n"
        )
    return "".join(lines)


def _reserve(library: Library) -> str:
    """PREFIX_reserve, which allocates an arena that is large enough for all three graphs, and
    starts the threads."""
    parts = [
        "  %refusal = call i32 @bessemer_check_dims(\n"
        f"    ptr %context, ptr %dims, i32 {len(library.step.dims)}\n  )\n"
        "  %possible = icmp eq i32 %refusal, 0\n"
        "  br i1 %possible, label %sizes, label %absurd_dim\n"
        "absurd_dim:\n  ret i32 %refusal\nsizes:\n"
    ]
    for name, part in zip("abc", library.parts, strict=True):
        parts.append(_sizes(part, name))
        parts.append(f"  %{name}.need = call i64 @{part.body.name}_workspace(ptr %{name})\n")
    return f"""
define i32 @${{prefix}}_reserve(ptr %context, ptr %dims) $baseline {{
entry:
  %wrong = call i32 @bessemer_ready(ptr %context, ptr %context, ptr %dims)
  %right = icmp eq i32 %wrong, 0
  br i1 %right, label %measure, label %refused
refused:
  ret i32 %wrong
measure:
{"".join(parts)}
  %b.more = icmp sgt i64 %b.need, %a.need
  %ab = select i1 %b.more, i64 %b.need, i64 %a.need
  %c.more = icmp sgt i64 %c.need, %ab
  %abc = select i1 %c.more, i64 %c.need, i64 %ab
  %none = icmp slt i64 %abc, 64
  %bytes = select i1 %none, i64 64, i64 %abc
  %ab.absurd = or i64 %a.need, %b.need
  %signs = or i64 %ab.absurd, %c.need
  %absurd = icmp slt i64 %signs, 0
  br i1 %absurd, label %too_large, label %grow
too_large:
  call void @bessemer_fail(ptr %context, i32 2, ptr @bessemer_overflow)
  ret i32 2
grow:
  %status = call i32 @bessemer_grow(ptr %context, i64 %bytes)
  call void @bessemer_start_threads(ptr %context)
  ret i32 %status
}}
"""


def _head(function: str, parameters: str) -> str:
    return f"""
define i32 @${{prefix}}_{function}(ptr %context, ptr %batch, {parameters}) $baseline {{
entry:
  %wrong = call i32 @bessemer_ready(ptr %context, ptr %batch, ptr %dims)
  %right = icmp eq i32 %wrong, 0
  br i1 %right, label %go, label %refused
refused:
  ret i32 %wrong
go:
"""


def _inputs(part: Part, name: str, given: int, extra: int = 0) -> str:
    """Code that fills %inputs: `given` arrays of the caller, room for `extra` ones, then the
    state."""
    count = given + extra + len(part.reads)
    return f"""  %inputs = alloca [{max(count, 1)} x ptr]
  call void @llvm.memcpy.p0.p0.i64(ptr %inputs, ptr %batch, i64 {8 * given}, i1 false)
  %state.to = getelementptr ptr, ptr %inputs, i64 {given + extra}
  call void @bessemer_state_pointers(
    ptr %context, ptr @bessemer_{name}_reads, i64 {len(part.reads)}, ptr %state.to
  )
"""


def _run(part: Part) -> str:
    """Code that runs the graph in the context's arena, which does not grow; the result is
    %status."""
    return f"""{_sizes(part, "sizes")}
  %arena = field context.arena, %context
  %bytes = field context.arena_bytes, %context
  %status = call i32 @{part.body.name}_run(
    ptr %context, ptr %inputs, ptr %outputs, ptr %sizes, ptr %arena, i64 %bytes
  )
"""


def _outputs(library: Library, part: Part, name: str) -> str:
    """Code that fills %outputs: places for the results, then the arrays of the state that are
    written."""
    results = len(library.results)
    lines = [
        f"  %outputs = alloca [{results + len(part.writes)} x ptr]\n",
        f"  %raw = alloca [{results} x i64]\n",
        f"  call void @llvm.memset.p0.i64(ptr %raw, i8 0, i64 {8 * results}, i1 false)\n",
    ]
    for place in range(results):
        lines.append(
            f"  %raw.at{place} = getelementptr i64, ptr %raw, i64 {place}\n"
            f"  %output{place} = getelementptr ptr, ptr %outputs, i64 {place}\n"
            f"  store ptr %raw.at{place}, ptr %output{place}\n"
        )
    lines.append(
        f"  %updates.to = getelementptr ptr, ptr %outputs, i64 {results}\n"
        f"  call void @bessemer_state_pointers(ptr %context, ptr @bessemer_{name}_writes, "
        f"i64 {len(part.writes)}, ptr %updates.to)\n"
    )
    return "".join(lines)


_WIDENED = {
    "float64": "load double, ptr {at}",
    "float32": "fpext float {raw} to double",
    "float16": "fpext half {raw} to double",
    "int64": "sitofp i64 {raw} to double",
    "int32": "sitofp i32 {raw} to double",
    "bool": "uitofp i8 {raw} to double",
}
_KINDS = {"float32": "float", "float16": "half", "int64": "i64", "int32": "i32", "bool": "i8"}


def can_be_result(info: ArrayInfo) -> bool:
    """Whether the array is one number that the library can return as a double."""
    return info.dtype in _WIDENED and all(size == 1 for size in info.shape)


def _results(library: Library) -> str:
    """Code that converts the results to doubles, if there are any and the caller wants them."""
    lines = [
        "  %no_results = icmp eq ptr %results, null\n"
        "  %fine = icmp eq i32 %status, 0\n"
        "  %not_finite = icmp eq i32 %status, 9\n"
        "  %known = or i1 %fine, %not_finite\n"
        "  %unknown = xor i1 %known, true\n"
        "  %silent = or i1 %no_results, %unknown\n"
        "  br i1 %silent, label %done, label %tell\ntell:\n"
    ]
    for place, info in enumerate(library.results):
        at = f"%raw.at{place}"
        if info.dtype != "float64":
            lines.append(f"  %raw{place} = load {_KINDS[info.dtype]}, ptr {at}\n")
        value = _WIDENED[info.dtype].format(at=at, raw=f"%raw{place}")
        lines.append(
            f"  %wide{place} = {value}\n"
            f"  %result{place} = getelementptr double, ptr %results, i64 {place}\n"
            f"  store double %wide{place}, ptr %result{place}\n"
        )
    return "".join(lines) + "  br label %done\ndone:\n"


# A rate that is NaN would spoil the state without a word: the loss is that before the step.
_RATE_CHECK = """  %rate.forward = fcmp oge double %rate, 0.0
  %rate.finite = fcmp olt double %rate, 0x7FF0000000000000
  %rate.fits = and i1 %rate.forward, %rate.finite
  br i1 %rate.fits, label %learn, label %unfit
unfit:
  call void @bessemer_fail(ptr %context, i32 1, ptr @bessemer_no_rate)
  ret i32 1
learn:
"""


def _train_step(library: Library) -> str:
    part = library.step
    given = len(part.body.signature.inputs) - len(part.reads) - 2
    return (
        _head("train_step", "ptr %dims, double %rate, ptr %results")
        + _RATE_CHECK
        + _inputs(part, "step", given, 2)
        + f"""  %rate.at = alloca double
  store double %rate, ptr %rate.at
  %steps.at = getelementptr %bessemer.context, ptr %context, $context_steps
  %rate.to = getelementptr ptr, ptr %inputs, i64 {given}
  %steps.to = getelementptr ptr, ptr %inputs, i64 {given + 1}
  store ptr %rate.at, ptr %rate.to
  store ptr %steps.at, ptr %steps.to
"""
        + _outputs(library, part, "step")
        + _run(part)
        + _results(library)
        + """  %steps = load i64, ptr %steps.at
  %more = zext i1 %fine to i64
  %steps.now = add i64 %steps, %more
  store i64 %steps.now, ptr %steps.at
  ret i32 %status
}
"""
    )


def _evaluate(library: Library) -> str:
    part = library.evaluation
    given = len(part.body.signature.inputs) - len(part.reads)
    return (
        _head("evaluate", "ptr %dims, ptr %results")
        + _inputs(part, "evaluation", given)
        + _outputs(library, part, "evaluation")
        + _run(part)
        + _results(library)
        + "  ret i32 %status\n}\n"
    )


def _predict(library: Library) -> str:
    part = library.prediction
    given = len(part.body.signature.inputs) - len(part.reads)
    return (
        _head("predict", "ptr %outputs, ptr %dims")
        + _inputs(part, "prediction", given)
        + _run(part)
        + "  ret i32 %status\n}\n"
    )

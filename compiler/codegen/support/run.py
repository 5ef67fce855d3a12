"""Writes a run as LLVM IR: it checks the arguments, finds memory, and calls a graph's run body.

A model has one graph, whose functions have the model's prefix. A training library has several
(library.py), whose functions have prefixes of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.support.constants import c_string
from bessemer.compiler.codegen.support.layout import Layout
from bessemer.runtime.artifact import Signature


@dataclass(frozen=True, eq=False)
class Body:
    """One graph of an artifact. Its functions are called NAME_body, NAME_workspace and NAME_run.
    Its arrays are those of `signature`, and its weights begin at byte `weights_from` of the
    artifact's weights."""

    name: str
    signature: Signature
    weights_from: int = 0
    is_public: bool = False


# What a run must know of a graph. `set_by_run` has a byte for each output, 1 where it is
# data-dependent.
GRAPH = Layout(
    "graph",
    (
        ("body", "ptr"),
        ("workspace", "ptr"),
        ("set_by_run", "ptr"),
        ("weights_from", "i64"),
        ("input_count", "i32"),
        ("output_count", "i32"),
        ("dim_count", "i32"),
        ("input_dim_count", "i32"),
    ),
)

_STRINGS = {
    "bessemer_null_input": "input %d is null",
    "bessemer_null_output": "output %d is null",
    "bessemer_null_arrays": "inputs, outputs or dims is null",
    "bessemer_negative_dim": "dim %d is negative",
    "bessemer_small": "the workspace has %lld bytes, %lld are needed",
    "bessemer_unaligned": "the workspace is not aligned to 64 bytes",
}

# Data-dependent outputs may be null: the run sets their pointers.
_CHECK = """
define hidden i32 @bessemer_check_dims(ptr %context, ptr %dims, i32 %count) $baseline {
entry:
  br label %next
next:
  %d = phi i32 [ 0, %entry ], [ %more, %good ]
  %inside = icmp ult i32 %d, %count
  br i1 %inside, label %look, label %done
look:
  %wide = zext i32 %d to i64
  %at = getelementptr i64, ptr %dims, i64 %wide
  %dim = load i64, ptr %at
  %negative = icmp slt i64 %dim, 0
  br i1 %negative, label %bad, label %good
good:
  %more = add i32 %d, 1
  br label %next
bad:
  %status = call i32 @bessemer_refuse(ptr %context, ptr @bessemer_negative_dim, i32 %d)
  ret i32 %status
done:
  ret i32 0
}

define hidden i32 @bessemer_check(
  ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %graph
) $baseline {
entry:
  %input_count = field graph.input_count, %graph
  %output_count = field graph.output_count, %graph
  %dim_count = field graph.dim_count, %graph
  %input_dim_count = field graph.input_dim_count, %graph
  %set_by_run = field graph.set_by_run, %graph
  %has_inputs = icmp ne i32 %input_count, 0
  %has_outputs = icmp ne i32 %output_count, 0
  %has_dims = icmp ne i32 %dim_count, 0
  %no_inputs = icmp eq ptr %inputs, null
  %no_outputs = icmp eq ptr %outputs, null
  %no_dims = icmp eq ptr %dims, null
  %bad_inputs = and i1 %no_inputs, %has_inputs
  %bad_outputs = and i1 %no_outputs, %has_outputs
  %bad_dims = and i1 %no_dims, %has_dims
  %bad_arrays = or i1 %bad_inputs, %bad_outputs
  %bad = or i1 %bad_arrays, %bad_dims
  br i1 %bad, label %null_arrays, label %input
null_arrays:
  %s1 = call i32 @bessemer_refuse(ptr %context, ptr @bessemer_null_arrays, i32 0)
  ret i32 %s1
input:
  %i = phi i32 [ 0, %entry ], [ %i.next, %input_good ]
  %i.more = icmp ult i32 %i, %input_count
  br i1 %i.more, label %input_look, label %output
input_look:
  %i.wide = zext i32 %i to i64
  %input.at = getelementptr ptr, ptr %inputs, i64 %i.wide
  %input.data = load ptr, ptr %input.at
  %input.null = icmp eq ptr %input.data, null
  br i1 %input.null, label %input_bad, label %input_good
input_good:
  %i.next = add i32 %i, 1
  br label %input
input_bad:
  %s2 = call i32 @bessemer_refuse(ptr %context, ptr @bessemer_null_input, i32 %i)
  ret i32 %s2
output:
  %o = phi i32 [ 0, %input ], [ %o.next, %output_good ]
  %o.more = icmp ult i32 %o, %output_count
  br i1 %o.more, label %output_look, label %dim
output_look:
  %o.wide = zext i32 %o to i64
  %output.at = getelementptr ptr, ptr %outputs, i64 %o.wide
  %output.data = load ptr, ptr %output.at
  %output.null = icmp eq ptr %output.data, null
  %free.at = getelementptr i8, ptr %set_by_run, i64 %o.wide
  %free.byte = load i8, ptr %free.at
  %fixed = icmp eq i8 %free.byte, 0
  %output.missing = and i1 %output.null, %fixed
  br i1 %output.missing, label %output_bad, label %output_good
output_good:
  %o.next = add i32 %o, 1
  br label %output
output_bad:
  %s3 = call i32 @bessemer_refuse(ptr %context, ptr @bessemer_null_output, i32 %o)
  ret i32 %s3
dim:
  %s4 = call i32 @bessemer_check_dims(ptr %context, ptr %dims, i32 %input_dim_count)
  ret i32 %s4
}
"""

# Where an output lies whose size the data decides: with the caller, where it has room, or else in
# the arena. It is asked for again and again in a run, and the answer is always the same.
_LATE_PLACE = """
define hidden ptr @bessemer_output_place(
  ptr %context, ptr %outputs, i64 %number, i64 %bytes, ptr %arena
) $baseline {
entry:
  %rooms = field context.rooms, %context
  %none = icmp eq ptr %rooms, null
  br i1 %none, label %inside, label %look
look:
  %room.at = getelementptr i64, ptr %rooms, i64 %number
  %room = load i64, ptr %room.at
  %enough = icmp sge i64 %room, %bytes
  %any = icmp sgt i64 %room, 0
  %fits = and i1 %enough, %any
  br i1 %fits, label %outside, label %inside
outside:
  %given.at = getelementptr ptr, ptr %outputs, i64 %number
  %given = load ptr, ptr %given.at
  ret ptr %given
inside:
  ret ptr %arena
}
"""

# With the context's own arena the body runs again, in a larger one, when the data asked for it. A
# workspace of less than nothing is that of sizes beyond 64 bits or below 0, which the body finds
# before it wants memory.
_RUN = """
define hidden i32 @bessemer_run_graph(
  ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %workspace, i64 %bytes, ptr %graph
) $baseline {
entry:
  %no_context = icmp eq ptr %context, null
  br i1 %no_context, label %invalid, label %check
invalid:
  ret i32 1
check:
  %body = field graph.body, %graph
  %workspace_of = field graph.workspace, %graph
  %weights_from = field graph.weights_from, %graph
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %needed.at = getelementptr %bessemer.context, ptr %context, $context_needed
  %weights.all = field context.weights, %context
  %weights = getelementptr i8, ptr %weights.all, i64 %weights_from
  store i8 0, ptr %message
  %wrong = call i32 @bessemer_check(
    ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %graph
  )
  %right = icmp eq i32 %wrong, 0
  br i1 %right, label %prepare, label %stop
stop:
  ret i32 %wrong
prepare:
  call void @bessemer_after_fork(ptr %context)
  %need = call i64 %workspace_of(ptr %dims)
  %absurd = icmp slt i64 %need, 0
  br i1 %absurd, label %explain, label %whose
explain:
  %refused = call i32 %body(
    ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %weights, ptr null, i64 0
  )
  ret i32 %refused
whose:
  store i64 %need, ptr %needed.at
  %own = icmp eq ptr %workspace, null
  br i1 %own, label %first, label %given
given:
  %small = icmp slt i64 %bytes, %need
  br i1 %small, label %too_small, label %place
too_small:
  %lacking = phi i64 [ %need, %given ], [ %found, %short ]
  %f1 = $say @bessemer_small, i64 %bytes, i64 %lacking)
  call void @bessemer_report(ptr %context, i32 3)
  ret i32 3
place:
  %address = ptrtoint ptr %workspace to i64
  %low = and i64 %address, 63
  %aligned = icmp eq i64 %low, 0
  br i1 %aligned, label %run_given, label %unaligned
unaligned:
  call void @bessemer_fail(ptr %context, i32 1, ptr @bessemer_unaligned)
  ret i32 1
run_given:
  %mode.given = call i64 @bessemer_flush_denormals()
  %status.given = call i32 @bessemer_body(
    ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %weights, ptr %workspace, i64 %bytes,
    ptr %graph
  )
  call void @bessemer_restore_denormals(i64 %mode.given)
  %is_short = icmp eq i32 %status.given, 3
  br i1 %is_short, label %short, label %ended
short:
  %found = load i64, ptr %needed.at
  br label %too_small
ended:
  ret i32 %status.given
first:
  br label %grow
grow:
  %wanted = phi i64 [ %need, %first ], [ %more, %again ]
  %unable = call i32 @bessemer_grow(ptr %context, i64 %wanted)
  %able = icmp eq i32 %unable, 0
  br i1 %able, label %run_own, label %give_up
give_up:
  ret i32 %unable
run_own:
  %arena = field context.arena, %context
  %arena_bytes = field context.arena_bytes, %context
  %mode = call i64 @bessemer_flush_denormals()
  %status = call i32 @bessemer_body(
    ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %weights, ptr %arena, i64 %arena_bytes,
    ptr %graph
  )
  call void @bessemer_restore_denormals(i64 %mode)
  %overrun = icmp eq i32 %status, 3
  br i1 %overrun, label %again, label %done
again:
  %more = load i64, ptr %needed.at
  %helps = icmp sgt i64 %more, %arena_bytes
  br i1 %helps, label %grow, label %done
done:
  ret i32 %status
}
"""

TEXT = "".join(c_string(*string) for string in _STRINGS.items()) + _CHECK + _LATE_PLACE + _RUN


def graph_text(body: Body) -> str:
    """@BODY_graph, the table of what a run must know about a body's graph, and the constants that
    it points to."""
    signature = body.signature
    flags = ", ".join(f"i8 {int(output.data_dependent)}" for output in signature.outputs)
    kind = f"[{len(signature.outputs)} x i8]"
    facts = (
        f"ptr @{body.name}_body, ptr @{body.name}_workspace, ptr @{body.name}_set_by_run, "
        f"i64 {body.weights_from}, i32 {len(signature.inputs)}, i32 {len(signature.outputs)}, "
        f"i32 {len(signature.symbols)}, i32 {signature.input_symbols}"
    )
    constant = "internal unnamed_addr constant"
    linkage = "hidden constant" if body.is_public else constant
    return f"""
@{body.name}_set_by_run = {constant} {kind} {f"[{flags}]" if flags else "zeroinitializer"}
@{body.name}_graph = {linkage} %bessemer.graph {{ {facts} }}
"""


def run_text(name: str, linkage: str = "") -> str:
    """A template of NAME_run, which runs one graph."""
    return f"""
define {linkage}i32 @{name}_run(
  ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %workspace, i64 %bytes
) $baseline {{
  %status = call i32 @bessemer_run_graph(
    ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %workspace, i64 %bytes,
    ptr @{name}_graph
  )
  ret i32 %status
}}
"""


INTERFACE = "@${prefix}_graph = external hidden constant %bessemer.graph\n" + run_text("${prefix}")
"""The functions that C programs and the runtime call."""

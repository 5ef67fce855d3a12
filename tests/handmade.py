"""Models written by hand in LLVM IR: what the compiler would emit, small enough to read.

They test everything around a model (support code, linking, header, runtime) without the compiler.
Each is (name, IR text, signature); `build` makes code of it for this machine or another.
"""

from __future__ import annotations

import platform
from dataclasses import replace

import numpy as np

from bessemer.compiler.codegen.artifact.link import Bytes, Code, compile_code, weights_digest
from bessemer.compiler.codegen.artifact.machine import Machine
from bessemer.runtime.artifact import ArrayInfo, Signature

HOST = f"{platform.machine()}-unknown-linux-gnu"
AARCH64 = "aarch64-unknown-linux-gnu"
X86 = "x86_64-unknown-linux-gnu"

BODY_ARGUMENTS = (
    "ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %weights, ptr %workspace, i64 %bytes"
)
COLUMNS = 4


def functions(prefix: str, body: str, workspace: str = "ret i64 0", more: str = "") -> str:
    """The two functions of a model, and whatever they need."""
    return f"""
{more}
define internal i32 @{prefix}_body({BODY_ARGUMENTS}) {{
{body}
}}
define internal i64 @{prefix}_workspace(ptr %dims) {{
{workspace}
}}
"""


def signature(
    name: str,
    inputs: list[ArrayInfo],
    outputs: list[ArrayInfo],
    symbols: tuple[str, ...] = (),
    bound: int = 0,
    weights: Bytes | None = None,
    triple: str = HOST,
) -> Signature:
    """A signature whose name is also its prefix."""
    blob = np.empty(0, np.uint8) if weights is None else weights
    return Signature(
        name=name,
        prefix=name,
        triple=triple,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        symbols=symbols,
        input_symbols=bound,
        weights_bytes=blob.nbytes,
        weights_sha256=weights_digest(blob),
    )


def build(made: Signature, text: str) -> Code:
    """Code for the signature's target."""
    return compile_code(made, [text], Machine(made.triple))


# y = relu(x) * w, rows in parallel; uses as much workspace as y has, to have some.
_RELU_KERNEL = """
define internal void @PREFIX_kernel(ptr %buffers, ptr %dims, i64 %begin, i64 %end) {
entry:
  %x = load ptr, ptr %buffers
  %y.at = getelementptr ptr, ptr %buffers, i64 1
  %y = load ptr, ptr %y.at
  %w.at = getelementptr ptr, ptr %buffers, i64 2
  %w = load ptr, ptr %w.at
  %first = mul i64 %begin, 4
  %last = mul i64 %end, 4
  br label %next
next:
  %i = phi i64 [ %first, %entry ], [ %i.next, %element ]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %element, label %done
element:
  %column = and i64 %i, 3
  %x.here = getelementptr float, ptr %x, i64 %i
  %y.here = getelementptr float, ptr %y, i64 %i
  %w.here = getelementptr float, ptr %w, i64 %column
  %xv = load float, ptr %x.here
  %wv = load float, ptr %w.here
  %positive = fcmp ogt float %xv, 0.0
  %kept = select i1 %positive, float %xv, float 0.0
  %product = fmul float %kept, %wv
  store float %product, ptr %y.here
  %i.next = add i64 %i, 1
  br label %next
done:
  ret void
}
"""
_RELU_BODY = """
  %buffers = alloca [3 x ptr]
  %x = load ptr, ptr %inputs
  %y = load ptr, ptr %outputs
  %b1 = getelementptr ptr, ptr %buffers, i64 1
  %b2 = getelementptr ptr, ptr %buffers, i64 2
  store ptr %x, ptr %buffers
  store ptr %y, ptr %b1
  store ptr %weights, ptr %b2
  %n = load i64, ptr %dims
  %used = mul i64 %n, 16
  %small = icmp ult i64 %bytes, %used
  br i1 %small, label %refuse, label %run
refuse:
  call void @bessemer_fail(ptr %context, i32 2, ptr @bessemer_overflow)
  ret i32 2
run:
  call void @llvm.memset.p0.i64(ptr %workspace, i8 85, i64 %used, i1 false)
  call void @bessemer_parallel(
    ptr %context, ptr @PREFIX_kernel, ptr %buffers, ptr %dims, i64 %n, i64 %n
  )
  ret i32 0
"""
_RELU_WORKSPACE = """
  %n = load i64, ptr %dims
  %used = mul i64 %n, 16
  %rounded = add i64 %used, 63
  %bytes = and i64 %rounded, -64
  ret i64 %bytes
"""


def relu(prefix: str = "relu", scale: float = 1.0, triple: str = HOST) -> tuple[Code, Bytes]:
    """y[batch, 4] = max(x, 0) * (scale * [1, 2, 3, 4])."""
    weights = (scale * np.arange(1, 5, dtype=np.float32)).view(np.uint8)
    made = signature(
        prefix,
        [ArrayInfo("x", "float32", ("batch", COLUMNS))],
        [ArrayInfo("y", "float32", ("batch", COLUMNS))],
        ("batch",),
        1,
        weights,
        triple,
    )
    text = functions(prefix, _RELU_BODY, _RELU_WORKSPACE, _RELU_KERNEL)
    return build(made, text.replace("PREFIX", prefix)), weights


def copy(dtype: str, itemsize: int, shape: tuple[int | str, ...], count: str) -> Code:
    """y = x, byte by byte; `count` is an operand of IR: how many elements, %n for dim 0."""
    symbols = tuple({size for size in shape if isinstance(size, str)})
    body = f"""
  %n = {"load i64, ptr %dims" if symbols else "add i64 0, 0"}
  %size = mul i64 {count}, {itemsize}
  %x = load ptr, ptr %inputs
  %y = load ptr, ptr %outputs
  call void @llvm.memcpy.p0.p0.i64(ptr %y, ptr %x, i64 %size, i1 false)
  ret i32 0
"""
    arrays = [ArrayInfo("x", dtype, shape)], [ArrayInfo("y", dtype, shape)]
    return build(signature("copy", *arrays, symbols, len(symbols)), functions("copy", body))


# The positive ones of x: how many there are is known only from the data.
_POSITIVE_BODY = """
entry:
  %x = load ptr, ptr %inputs
  %n = load i64, ptr %dims
  br label %count
count:
  %i = phi i64 [ 0, %entry ], [ %i.next, %counted ]
  %sum = phi i64 [ 0, %entry ], [ %sum.next, %counted ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %counted, label %check
counted:
  %c.here = getelementptr float, ptr %x, i64 %i
  %c = load float, ptr %c.here
  %c.positive = fcmp ogt float %c, 0.0
  %one = zext i1 %c.positive to i64
  %sum.next = add i64 %sum, %one
  %i.next = add i64 %i, 1
  br label %count
check:
  %found.at = getelementptr i64, ptr %dims, i64 1
  store i64 %sum, ptr %found.at
  %need = mul i64 %sum, 4
  %small = icmp slt i64 %bytes, %need
  br i1 %small, label %too_small, label %copy
too_small:
  call void @bessemer_need(ptr %context, i64 %need)
  ret i32 3
copy:
  %j = phi i64 [ 0, %check ], [ %j.next, %skip ]
  %k = phi i64 [ 0, %check ], [ %k.next, %skip ]
  %left = icmp slt i64 %j, %n
  br i1 %left, label %look, label %done
look:
  %here = getelementptr float, ptr %x, i64 %j
  %v = load float, ptr %here
  %huge = fcmp ogt float %v, 1.0e9
  br i1 %huge, label %refuse, label %take
take:
  %positive = fcmp ogt float %v, 0.0
  br i1 %positive, label %write, label %skip
write:
  %there = getelementptr float, ptr %workspace, i64 %k
  store float %v, ptr %there
  br label %skip
skip:
  %step = phi i64 [ 1, %write ], [ 0, %take ]
  %k.next = add i64 %k, %step
  %j.next = add i64 %j, 1
  br label %copy
refuse:
  call void @bessemer_fail(ptr %context, i32 6, ptr @positive_text)
  ret i32 6
done:
  store ptr %workspace, ptr %outputs
  ret i32 0
"""


def positive() -> Code:
    """y[found] = the positive elements of x[length]; refuses elements above 1e9."""
    made = signature(
        "positive",
        [ArrayInfo("x", "float32", ("length",))],
        [ArrayInfo("y", "float32", ("found",), data_dependent=True)],
        ("length", "found"),
        1,
    )
    text = '@positive_text = internal constant [17 x i8] c"an index is huge\\00"\n'
    return build(made, functions("positive", _POSITIVE_BODY, more=text))


# Every element of the range gets the first index of the chunk that it was in.
_CHUNKS_KERNEL = """
define internal void @chunks_kernel(ptr %buffers, ptr %dims, i64 %begin, i64 %end) {
entry:
  %y = load ptr, ptr %buffers
  br label %next
next:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %element ]
  %more = icmp slt i64 %i, %end
  br i1 %more, label %element, label %done
element:
  %here = getelementptr i64, ptr %y, i64 %i
  store i64 %begin, ptr %here
  %i.next = add i64 %i, 1
  br label %next
done:
  ret void
}
"""
_CHUNKS_BODY = """
  %buffers = alloca ptr
  %y = load ptr, ptr %outputs
  store ptr %y, ptr %buffers
  %n = load i64, ptr %dims
  %shares = udiv i64 %n, GRAIN
  call void @bessemer_parallel(
    ptr %context, ptr @chunks_kernel, ptr %buffers, ptr %dims, i64 %n, i64 %shares
  )
  ret i32 0
"""


def chunks(grain: int) -> Code:
    """y[i] = where the chunk of i begins, for a parallel loop over [0, length) with this grain."""
    made = signature(
        "chunks",
        [ArrayInfo("x", "bool", ("length",))],
        [ArrayInfo("y", "int64", ("length",))],
        ("length",),
        1,
    )
    body = _CHUNKS_BODY.replace("GRAIN", str(grain))
    return build(made, functions("chunks", body, more=_CHUNKS_KERNEL))


def refusing() -> Code:
    """y[n] = x[n]; refuses an x that begins with more than 1e9."""
    body = """
  %x = load ptr, ptr %inputs
  %y = load ptr, ptr %outputs
  %n = load i64, ptr %dims
  %size = mul i64 %n, 4
  %first = load float, ptr %x
  %huge = fcmp ogt float %first, 1.0e9
  br i1 %huge, label %refuse, label %copy
refuse:
  call void @bessemer_fail(ptr %context, i32 6, ptr @refusing_text)
  ret i32 6
copy:
  call void @llvm.memcpy.p0.p0.i64(ptr %y, ptr %x, i64 %size, i1 false)
  ret i32 0
"""
    text = '@refusing_text = internal constant [17 x i8] c"an index is huge\\00"\n'
    arrays = [ArrayInfo(name, "float32", ("n",)) for name in "xy"]
    made = signature("refusing", arrays[:1], arrays[1:], ("n",), 1)
    return build(made, functions("refusing", body, more=text))


def product() -> Code:
    """y = a * b on float32 scalars: what a denormal becomes."""
    body = """
  %b.at = getelementptr ptr, ptr %inputs, i64 1
  %a = load ptr, ptr %inputs
  %b = load ptr, ptr %b.at
  %y = load ptr, ptr %outputs
  %av = load float, ptr %a
  %bv = load float, ptr %b
  %p = fmul float %av, %bv
  store float %p, ptr %y
  ret i32 0
"""
    inputs = [ArrayInfo("a", "float32", ()), ArrayInfo("b", "float32", ())]
    return build(
        signature("product", inputs, [ArrayInfo("y", "float32", ())]), functions("product", body)
    )


def related() -> Code:
    """Does nothing, with shapes that have to agree: a[n, 3], b[2*n+1], c[n], y[(n+1)//2]."""
    inputs = [
        ArrayInfo("b", "float32", ("2*n+1",)),
        ArrayInfo("a", "float32", ("n", 3)),
        ArrayInfo("c", "float32", ("n",)),
    ]
    made = signature("related", inputs, [ArrayInfo("y", "float32", ("(n+1)//2",))], ("n",), 1)
    return build(made, functions("related", "  ret i32 0"))


def apart() -> Code:
    """Does nothing: x[n] and z[m] have nothing to do with each other, y[n] is as long as x."""
    inputs = [ArrayInfo("x", "float32", ("n",)), ArrayInfo("z", "float32", ("m",))]
    made = signature("apart", inputs, [ArrayInfo("y", "float32", ("n",))], ("n", "m"), 2)
    return build(made, functions("apart", "  ret i32 0"))


def pair() -> Code:
    """Does nothing: x[n], and two outputs p[n] and q[n]."""
    x, p, q = (ArrayInfo(name, "float32", ("n",)) for name in "xpq")
    made = signature("pair", [x], [p, q], ("n",), 1)
    return build(made, functions("pair", "  ret i32 0"))


def requiring(features: tuple[str, ...]) -> Code:
    """A model that does nothing and needs these processor features."""
    made = replace(signature("picky", [], []), cpu_features=features)
    return build(made, functions("picky", "  ret i32 0"))

"""Writes a function that copies whole values in blocks, which threads share, as LLVM IR.

    void NAME(ptr buffers, ptr dims, i64 begin, i64 end)      blocks begin .. end-1

`buffers` are the source and the target, which do not overlap; `dims` is their number of bytes.
"""

from __future__ import annotations

BLOCK = 1 << 16
"""Bytes of a block, the least that a thread copies. Shares of a copy begin at page boundaries."""


def copy_name(prefix: str) -> str:
    """The name of the function."""
    return f"{prefix}_copy"


def copy_text(prefix: str) -> str:
    """The function that copies blocks, as LLVM IR."""
    head = "ptr %buffers, ptr %dims, i64 %begin, i64 %end"
    return f"""define internal void @{copy_name(prefix)}({head}) nounwind {{
  %target.at = getelementptr ptr, ptr %buffers, i64 1
  %source.whole = load ptr, ptr %buffers
  %target.whole = load ptr, ptr %target.at
  %size = load i64, ptr %dims
  %first = mul i64 %begin, {BLOCK}
  %behind = mul i64 %end, {BLOCK}
  %is_last = icmp sgt i64 %behind, %size
  %last = select i1 %is_last, i64 %size, i64 %behind
  %source = getelementptr i8, ptr %source.whole, i64 %first
  %target = getelementptr i8, ptr %target.whole, i64 %first
  %count = sub i64 %last, %first
  call void @llvm.memcpy.p0.p0.i64(ptr %target, ptr %source, i64 %count, i1 false)
  ret void
}}
"""

"""Writes the part of a training library's C API that is the same for all networks, as LLVM IR."""

from __future__ import annotations

from bessemer.compiler.codegen.support.constants import c_string
from bessemer.compiler.codegen.support.context import number_of

_DECLARATIONS = "declare i32 @strcmp(ptr, ptr)\n"

_STRINGS = {
    "bessemer_no_state": "there is no state yet: call init first",
    "bessemer_no_batch": "a batch, outputs or a path is null",
    "bessemer_no_dims": "dims is null",
    "bessemer_no_rate": "the learning rate is negative, infinite or NaN",
}

_CODE = """
; 0, or what is wrong with the arguments: `given` must be there, and dims if there are any.
define internal i32 @bessemer_ready(ptr %context, ptr %given, ptr %dims) $baseline {
entry:
  %no_context = icmp eq ptr %context, null
  br i1 %no_context, label %invalid, label %look
invalid:
  ret i32 1
look:
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %state = field context.state, %context
  store i8 0, ptr %message
  %no_state = icmp eq ptr %state, null
  br i1 %no_state, label %early, label %array
early:
  call void @bessemer_fail(ptr %context, i32 1, ptr @bessemer_no_state)
  ret i32 1
array:
  %nothing = icmp eq ptr %given, null
  br i1 %nothing, label %missing, label %size
missing:
  call void @bessemer_fail(ptr %context, i32 1, ptr @bessemer_no_batch)
  ret i32 1
size:
  %no_dims = icmp eq ptr %dims, null
  %unsized = and i1 %no_dims, $has_sizes
  br i1 %unsized, label %sizeless, label %good
sizeless:
  call void @bessemer_fail(ptr %context, i32 1, ptr @bessemer_no_dims)
  ret i32 1
good:
  ret i32 0
}

; Stores where the arrays of the state with these numbers are.
define internal void @bessemer_state_pointers(
  ptr %context, ptr %numbers, i64 %count, ptr %to
) $baseline {
entry:
  %state = field context.state, %context
  br label %next
next:
  %k = phi i64 [ 0, %entry ], [ %more, %one ]
  %left = icmp ult i64 %k, %count
  br i1 %left, label %one, label %done
one:
  %number.at = getelementptr i64, ptr %numbers, i64 %k
  %number = load i64, ptr %number.at
  %offset.at = getelementptr i64, ptr @bessemer_state_offsets, i64 %number
  %offset = load i64, ptr %offset.at
  %array = getelementptr i8, ptr %state, i64 %offset
  %array.to = getelementptr ptr, ptr %to, i64 %k
  store ptr %array, ptr %array.to
  %more = add i64 %k, 1
  br label %next
done:
  ret void
}

; The pool, where the context is to have one: later calls find it.
define internal void @bessemer_start_threads(ptr %context) $baseline {
entry:
  %threads = field options.threads, %context
  %own = field options.parallel_for, %context
  %several = icmp sgt i32 %threads, 1
  %ours = icmp eq ptr %own, null
  %wanted = and i1 %several, %ours
  br i1 %wanted, label %start, label %done
start:
  call void @bessemer_after_fork(ptr %context)
  %pool = call ptr @bessemer_pool(ptr %context)
  br label %done
done:
  ret void
}

define i32 @${prefix}_init(ptr %context, ptr %dims) $baseline {
entry:
  %no_context = icmp eq ptr %context, null
  br i1 %no_context, label %invalid, label %look
invalid:
  ret i32 1
look:
  %state.at = getelementptr %bessemer.context, ptr %context, $context_state
  %bytes.at = getelementptr %bessemer.context, ptr %context, $context_state_bytes
  %steps.at = getelementptr %bessemer.context, ptr %context, $context_steps
  %weights = field context.weights, %context
  %before = load ptr, ptr %state.at
  %none = icmp eq ptr %before, null
  br i1 %none, label %allocate, label %fill
allocate:
  %made = call ptr @bessemer_allocate(ptr %context, i64 $state_block_bytes)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %no_memory, label %keep
no_memory:
  %lacking = call i32 @bessemer_lack(ptr %context, i64 $state_block_bytes)
  ret i32 %lacking
keep:
  store ptr %made, ptr %state.at
  store i64 $state_block_bytes, ptr %bytes.at
  br label %fill
fill:
  %state = phi ptr [ %before, %look ], [ %made, %keep ]
  store i64 $first_steps, ptr %steps.at
  br label %next
next:
  %k = phi i64 [ 0, %fill ], [ %more, %filled ]
  %left = icmp ult i64 %k, $state_count
  br i1 %left, label %one, label %done
one:
  %offset.at = getelementptr i64, ptr @bessemer_state_offsets, i64 %k
  %size.at = getelementptr i64, ptr @bessemer_state_sizes, i64 %k
  %initial.at = getelementptr i64, ptr @bessemer_state_initial, i64 %k
  %offset = load i64, ptr %offset.at
  %size = load i64, ptr %size.at
  %initial = load i64, ptr %initial.at
  %to = getelementptr i8, ptr %state, i64 %offset
  %zeros = icmp slt i64 %initial, 0
  br i1 %zeros, label %clear, label %copy
clear:
  call void @llvm.memset.p0.i64(ptr %to, i8 0, i64 %size, i1 false)
  br label %filled
copy:
  %from = getelementptr i8, ptr %weights, i64 %initial
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %size, i1 false)
  br label %filled
filled:
  %more = add i64 %k, 1
  br label %next
done:
  %later = icmp eq ptr %dims, null
  %all_later = and i1 %later, $has_sizes
  br i1 %all_later, label %finish, label %reserve
reserve:
  %status = call i32 @${prefix}_reserve(ptr %context, ptr %dims)
  ret i32 %status
finish:
  ret i32 0
}

define ptr @${prefix}_parameter(ptr %context, ptr %name) $baseline {
entry:
  %no_name = icmp eq ptr %name, null
  br i1 %no_name, label %missing, label %check
check:
  %wrong = call i32 @bessemer_ready(ptr %context, ptr %context, ptr %name)
  %right = icmp eq i32 %wrong, 0
  br i1 %right, label %begin, label %missing
begin:
  %state = field context.state, %context
  br label %next
next:
  %k = phi i64 [ 0, %begin ], [ %more, %look ]
  %left = icmp ult i64 %k, $state_count
  br i1 %left, label %look, label %missing
look:
  %known.at = getelementptr ptr, ptr @bessemer_names, i64 %k
  %known = load ptr, ptr %known.at
  %difference = call i32 @strcmp(ptr %known, ptr %name)
  %same = icmp eq i32 %difference, 0
  %more = add i64 %k, 1
  br i1 %same, label %found, label %next
found:
  %offset.at = getelementptr i64, ptr @bessemer_state_offsets, i64 %k
  %offset = load i64, ptr %offset.at
  %array = getelementptr i8, ptr %state, i64 %offset
  ret ptr %array
missing:
  ret ptr null
}
"""

INTERFACE = (
    _DECLARATIONS
    + "".join(c_string(*string) for string in _STRINGS.items())
    + _CODE
    + number_of("steps", "i64", "context.steps")
)

"""Writes PREFIX_load, which reads the whole state from a checkpoint or leaves it unchanged, as LLVM
IR.

The file is mapped. Every array is found, and its type, shape and offset checked, before the first
one is copied. Checkpoints of the Python Trainer can be read too; what else they contain (the best
state, the history) is ignored. The number of steps is in a JSON text that is a string in the
header's JSON, where quotes are escaped.
"""

from __future__ import annotations

from bessemer.compiler.codegen.support.constants import c_string
from bessemer.compiler.codegen.training.json_text import JSON

_STRINGS = {
    "bessemer_metadata_key": "__metadata__",
    "bessemer_facts_key": "bessemer",
    "bessemer_kind_key": "dtype",
    "bessemer_shape_key": "shape",
    "bessemer_range_key": "data_offsets",
    "bessemer_format_mark": '\\"format\\":',
    "bessemer_steps_mark": '\\"steps\\":',
    "bessemer_unread": "the checkpoint %s cannot be read: %m",
    "bessemer_damaged": "%s is cut off, or no safetensors file",
    "bessemer_factless": "%s has arrays, but nothing that says how training went on",
    "bessemer_other_format": "%s was written by another version of Bessemer",
    "bessemer_other_network": "%s is of another network or optimizer: %s is missing or not %s%s",
}

_CODE = """
; The number behind the first occurrence of this mark, -1 where there is none.
define internal i64 @bessemer_number_behind(
  ptr %from, ptr %end, ptr %mark, i64 %length
) $baseline {
entry:
  %after = alloca ptr
  br label %next
next:
  %at = phi ptr [ %from, %entry ], [ %beside, %step ]
  %behind = getelementptr i8, ptr %at, i64 %length
  %over = icmp ugt ptr %behind, %end
  br i1 %over, label %bad, label %look
look:
  %difference = call i32 @memcmp(ptr %at, ptr %mark, i64 %length)
  %same = icmp eq i32 %difference, 0
  br i1 %same, label %found, label %step
step:
  %beside = getelementptr i8, ptr %at, i64 1
  br label %next
found:
  %number = call i64 @bessemer_json_number(ptr %behind, ptr %end, ptr %after)
  ret i64 %number
bad:
  ret i64 -1
}

; Where the data of array k begins behind the header; -1 where the file has no such array.
define internal i64 @bessemer_find_array(ptr %header, ptr %end, i64 %bytes, i64 %k) $baseline {
entry:
  %after = alloca ptr
  %key.at = getelementptr ptr, ptr @bessemer_keys, i64 %k
  %key_size.at = getelementptr i64, ptr @bessemer_key_sizes, i64 %k
  %kind.at = getelementptr ptr, ptr @bessemer_kinds, i64 %k
  %shape.at = getelementptr ptr, ptr @bessemer_shapes, i64 %k
  %size.at = getelementptr i64, ptr @bessemer_state_sizes, i64 %k
  %key = load ptr, ptr %key.at
  %key_size = load i64, ptr %key_size.at
  %kind = load ptr, ptr %kind.at
  %shape = load ptr, ptr %shape.at
  %size = load i64, ptr %size.at
  %found = call ptr @bessemer_json_find(ptr %header, ptr %end, ptr %key, i64 %key_size)
  %its_kind = call ptr @bessemer_json_find(
    ptr %found, ptr %end, ptr @bessemer_kind_key, i64 5
  )
  %its_shape = call ptr @bessemer_json_find(
    ptr %found, ptr %end, ptr @bessemer_shape_key, i64 5
  )
  %its_range = call ptr @bessemer_json_find(
    ptr %found, ptr %end, ptr @bessemer_range_key, i64 12
  )
  %same_kind = call i1 @bessemer_json_is(ptr %its_kind, ptr %end, ptr %kind)
  %same_shape = call i1 @bessemer_json_is(ptr %its_shape, ptr %end, ptr %shape)
  %begin = call i64 @bessemer_json_number(ptr %its_range, ptr %end, ptr %after)
  %behind = load ptr, ptr %after
  %finish = call i64 @bessemer_json_number(ptr %behind, ptr %end, ptr %after)
  %length = sub i64 %finish, %begin
  %as_long = icmp eq i64 %length, %size
  %inside = icmp sle i64 %finish, %bytes
  %begins = icmp sge i64 %begin, 0
  %a = and i1 %same_kind, %same_shape
  %b = and i1 %as_long, %inside
  %c = and i1 %a, %b
  %good = and i1 %c, %begins
  %result = select i1 %good, i64 %begin, i64 -1
  ret i64 %result
}

define internal i32 @bessemer_load_mapped(
  ptr %context, ptr %path, ptr %map, i64 %bytes
) $baseline {
entry:
  %places = alloca [$state_count x i64]
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %length = load i64, ptr %map, align 1
  %header = getelementptr i8, ptr %map, i64 8
  %rest = sub i64 %bytes, 8
  %fits = icmp ule i64 %length, %rest
  br i1 %fits, label %open, label %damaged
open:
  %end = getelementptr i8, ptr %header, i64 %length
  %data_bytes = sub i64 %rest, %length
  %object = call ptr @bessemer_json_blank(ptr %header, ptr %end)
  %whole = call ptr @bessemer_json_value(ptr %object, ptr %end)
  %broken = icmp eq ptr %whole, null
  br i1 %broken, label %damaged, label %facts
facts:
  %metadata = call ptr @bessemer_json_find(
    ptr %object, ptr %end, ptr @bessemer_metadata_key, i64 12
  )
  %told = call ptr @bessemer_json_find(ptr %metadata, ptr %end, ptr @bessemer_facts_key, i64 8)
  %factless = icmp eq ptr %told, null
  br i1 %factless, label %no_facts, label %string
string:
  %told.end = call ptr @bessemer_json_string(ptr %told, ptr %end)
  %cut = icmp eq ptr %told.end, null
  br i1 %cut, label %no_facts, label %numbers
numbers:
  %format = call i64 @bessemer_number_behind(
    ptr %told, ptr %told.end, ptr @bessemer_format_mark, i64 11
  )
  %steps = call i64 @bessemer_number_behind(
    ptr %told, ptr %told.end, ptr @bessemer_steps_mark, i64 10
  )
  %known = icmp eq i64 %format, 1
  %counted = icmp sge i64 %steps, 0
  %readable = and i1 %known, %counted
  br i1 %readable, label %next, label %other_format
next:
  %k = phi i64 [ 0, %numbers ], [ %more, %good ]
  %left = icmp ult i64 %k, $state_count
  br i1 %left, label %find, label %copy
find:
  %place = call i64 @bessemer_find_array(ptr %object, ptr %end, i64 %data_bytes, i64 %k)
  %missing = icmp slt i64 %place, 0
  br i1 %missing, label %other_network, label %good
good:
  %place.at = getelementptr i64, ptr %places, i64 %k
  store i64 %place, ptr %place.at
  %more = add i64 %k, 1
  br label %next
copy:
  %j = phi i64 [ 0, %next ], [ %j.next, %one ]
  %waiting = icmp ult i64 %j, $state_count
  br i1 %waiting, label %one, label %done
one:
  %from.at = getelementptr i64, ptr %places, i64 %j
  %offset.at = getelementptr i64, ptr @bessemer_state_offsets, i64 %j
  %size.at = getelementptr i64, ptr @bessemer_state_sizes, i64 %j
  %from.offset = load i64, ptr %from.at
  %offset = load i64, ptr %offset.at
  %size = load i64, ptr %size.at
  %state = field context.state, %context
  %from = getelementptr i8, ptr %end, i64 %from.offset
  %to = getelementptr i8, ptr %state, i64 %offset
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %size, i1 false)
  %j.next = add i64 %j, 1
  br label %copy
done:
  %steps.at = getelementptr %bessemer.context, ptr %context, $context_steps
  store i64 %steps, ptr %steps.at
  ret i32 0
damaged:
  %f1 = $say @bessemer_damaged, ptr %path)
  br label %refuse
no_facts:
  %f2 = $say @bessemer_factless, ptr %path)
  br label %refuse
other_format:
  %f3 = $say @bessemer_other_format, ptr %path)
  br label %refuse
other_network:
  %name.at = getelementptr ptr, ptr @bessemer_names, i64 %k
  %kind.at = getelementptr ptr, ptr @bessemer_kinds, i64 %k
  %shape.at = getelementptr ptr, ptr @bessemer_shapes, i64 %k
  %name = load ptr, ptr %name.at
  %kind = load ptr, ptr %kind.at
  %shape = load ptr, ptr %shape.at
  %f4 = $say @bessemer_other_network, ptr %path, ptr %name, ptr %kind, ptr %shape)
  br label %refuse
refuse:
  call void @bessemer_report(ptr %context, i32 10)
  ret i32 10
}

define i32 @${prefix}_load(ptr %context, ptr %path) $baseline {
entry:
  %wrong = call i32 @bessemer_ready(ptr %context, ptr %path, ptr %context)
  %right = icmp eq i32 %wrong, 0
  br i1 %right, label %open, label %refused
refused:
  ret i32 %wrong
open:
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %file = call i32 (ptr, i32, ...) @open(ptr %path, i32 524288)
  %unopened = icmp slt i32 %file, 0
  br i1 %unopened, label %unread, label %measure
measure:
  %bytes = call i64 @lseek(i32 %file, i64 0, i32 2)
  %long = icmp sge i64 %bytes, 10
  br i1 %long, label %map, label %short
short:
  %closed.short = call i32 @close(i32 %file)
  %f1 = $say @bessemer_damaged, ptr %path)
  call void @bessemer_report(ptr %context, i32 10)
  ret i32 10
map:
  %mapping = call ptr @mmap(ptr null, i64 %bytes, i32 1, i32 2, i32 %file, i64 0)
  %mapped = ptrtoint ptr %mapping to i64
  %unmapped = icmp eq i64 %mapped, -1
  br i1 %unmapped, label %not_mapped, label %read
read:
  %closed = call i32 @close(i32 %file)
  %status = call i32 @bessemer_load_mapped(
    ptr %context, ptr %path, ptr %mapping, i64 %bytes
  )
  %gone = call i32 @munmap(ptr %mapping, i64 %bytes)
  ret i32 %status
not_mapped:
  %f2 = $say @bessemer_unread, ptr %path)
  %closed.failed = call i32 @close(i32 %file)
  call void @bessemer_report(ptr %context, i32 10)
  ret i32 10
unread:
  %f3 = $say @bessemer_unread, ptr %path)
  call void @bessemer_report(ptr %context, i32 10)
  ret i32 10
}
"""

READING = JSON + "".join(c_string(*string) for string in _STRINGS.items()) + _CODE

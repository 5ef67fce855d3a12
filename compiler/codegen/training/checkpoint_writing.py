"""Writes PREFIX_save, which writes the state to a safetensors file atomically, as LLVM IR.

The file's header is known at compile time except for the number of steps, for which 20 characters
are reserved. The file is written beside its place, synchronized, and renamed. Its temporary name is
always the same, so that what a killed process has left is removed. The process that holds a lock on
the folder uses that name; others use names of their own.
"""

from __future__ import annotations

from bessemer.compiler.codegen.support.constants import c_string

_DECLARATIONS = """
declare i64 @write(i32, ptr, i64)
declare i32 @fsync(i32)
declare i32 @rename(ptr, ptr)
declare i32 @unlink(ptr)
declare i32 @flock(i32, i32)
declare ptr @strrchr(ptr, i32)
declare ptr @__errno_location()
"""

_STRINGS = {
    "bessemer_part_name": "%s.part",
    "bessemer_other_part_name": "%s.%d.%llx.part",
    "bessemer_here": ".",
    "bessemer_plain_path": "%s",
    "bessemer_steps_text": "%20lld",
    "bessemer_long_path": "the checkpoint's path is too long",
    "bessemer_not_written": "the checkpoint %s cannot be written: %m",
}

# 524865 is O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 438 rw for all that the process lets. A write
# of nothing is none that failed: errno says nothing then.
_CODE = """
define internal i1 @bessemer_write(i32 %file, ptr %from, i64 %count) $baseline {
entry:
  br label %next
next:
  %at = phi ptr [ %from, %entry ], [ %after, %wrote ], [ %at, %interrupted ]
  %left = phi i64 [ %count, %entry ], [ %rest, %wrote ], [ %left, %interrupted ]
  %finished = icmp eq i64 %left, 0
  br i1 %finished, label %done, label %write
write:
  %some = icmp ult i64 %left, 1073741824
  %part = select i1 %some, i64 %left, i64 1073741824
  %written = call i64 @write(i32 %file, ptr %at, i64 %part)
  %progress = icmp sgt i64 %written, 0
  br i1 %progress, label %wrote, label %why
wrote:
  %after = getelementptr i8, ptr %at, i64 %written
  %rest = sub i64 %left, %written
  br label %next
why:
  %error.at = call ptr @__errno_location()
  %error = load i32, ptr %error.at
  %is_signal = icmp eq i32 %error, 4
  %failed = icmp slt i64 %written, 0
  %again = and i1 %is_signal, %failed
  br i1 %again, label %interrupted, label %failure
interrupted:
  br label %next
done:
  ret i1 true
failure:
  ret i1 false
}

define internal i1 @bessemer_write_all(ptr %context, i32 %file) $baseline {
entry:
  %number = alloca [24 x i8]
  %steps = field context.steps, %context
  %state = field context.state, %context
  %digits = call i32 (ptr, i64, ptr, ...) @snprintf(
    ptr %number, i64 24, ptr @bessemer_steps_text, i64 %steps
  )
  %a = call i1 @bessemer_write(i32 %file, ptr @bessemer_before, i64 $before_bytes)
  br i1 %a, label %middle, label %failure
middle:
  %b = call i1 @bessemer_write(i32 %file, ptr %number, i64 20)
  br i1 %b, label %end, label %failure
end:
  %c = call i1 @bessemer_write(i32 %file, ptr @bessemer_after, i64 $after_bytes)
  br i1 %c, label %next, label %failure
next:
  %k = phi i64 [ 0, %end ], [ %more, %one ]
  %left = icmp ult i64 %k, $state_count
  br i1 %left, label %one, label %done
one:
  %place.at = getelementptr i64, ptr @bessemer_file_order, i64 %k
  %place = load i64, ptr %place.at
  %offset.at = getelementptr i64, ptr @bessemer_state_offsets, i64 %place
  %size.at = getelementptr i64, ptr @bessemer_state_sizes, i64 %place
  %offset = load i64, ptr %offset.at
  %size = load i64, ptr %size.at
  %array = getelementptr i8, ptr %state, i64 %offset
  %d = call i1 @bessemer_write(i32 %file, ptr %array, i64 %size)
  %more = add i64 %k, 1
  br i1 %d, label %next, label %failure
done:
  %synchronized = call i32 @fsync(i32 %file)
  %e = icmp eq i32 %synchronized, 0
  ret i1 %e
failure:
  ret i1 false
}

; An open file that holds a lock on the folder of a path, -1 where another one does. 6 is LOCK_EX |
; LOCK_NB; the path is shorter than the copy's place.
define internal i32 @bessemer_locked_folder(ptr %path) $baseline {
entry:
  %copy = alloca [4160 x i8]
  %length = call i32 (ptr, i64, ptr, ...) @snprintf(
    ptr %copy, i64 4160, ptr @bessemer_plain_path, ptr %path
  )
  %slash = call ptr @strrchr(ptr %copy, i32 47)
  %none = icmp eq ptr %slash, null
  br i1 %none, label %open, label %cut
cut:
  %after = getelementptr i8, ptr %slash, i64 1
  store i8 0, ptr %after
  br label %open
open:
  %folder = phi ptr [ @bessemer_here, %entry ], [ %copy, %cut ]
  %file = call i32 (ptr, i32, ...) @open(ptr %folder, i32 524288)
  %unopened = icmp slt i32 %file, 0
  br i1 %unopened, label %done, label %lock
lock:
  %refused = call i32 @flock(i32 %file, i32 6)
  %locked = icmp eq i32 %refused, 0
  br i1 %locked, label %done, label %close
close:
  %closed = call i32 @close(i32 %file)
  br label %done
done:
  %result = phi i32 [ -1, %open ], [ %file, %lock ], [ -1, %close ]
  ret i32 %result
}

define internal void @bessemer_unlock(i32 %folder) $baseline {
entry:
  %held = icmp sge i32 %folder, 0
  br i1 %held, label %close, label %done
close:
  %closed = call i32 @close(i32 %folder)
  br label %done
done:
  ret void
}

define i32 @${prefix}_save(ptr %context, ptr %path) $baseline {
entry:
  %part = alloca [4160 x i8]
  %wrong = call i32 @bessemer_ready(ptr %context, ptr %path, ptr %context)
  %right = icmp eq i32 %wrong, 0
  br i1 %right, label %name, label %refused
refused:
  ret i32 %wrong
name:
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %process = call i32 @getpid()
  %length = call i32 (ptr, i64, ptr, ...) @snprintf(
    ptr %part, i64 4160, ptr @bessemer_other_part_name, ptr %path, i32 %process, ptr %context
  )
  %long = icmp uge i32 %length, 4160
  br i1 %long, label %too_long, label %lock
too_long:
  call void @bessemer_fail(ptr %context, i32 10, ptr @bessemer_long_path)
  ret i32 10
lock:
  %folder = call i32 @bessemer_locked_folder(ptr %path)
  %alone = icmp sge i32 %folder, 0
  br i1 %alone, label %usual, label %open
usual:
  %usual.length = call i32 (ptr, i64, ptr, ...) @snprintf(
    ptr %part, i64 4160, ptr @bessemer_part_name, ptr %path
  )
  %cleared = call i32 @unlink(ptr %part)
  br label %open
open:
  %file = call i32 (ptr, i32, ...) @open(ptr %part, i32 524865, i32 438)
  %unopened = icmp slt i32 %file, 0
  br i1 %unopened, label %failed, label %write
write:
  %written = call i1 @bessemer_write_all(ptr %context, i32 %file)
  br i1 %written, label %close, label %give_up
close:
  %closed = call i32 @close(i32 %file)
  %is_closed = icmp eq i32 %closed, 0
  br i1 %is_closed, label %move, label %undo
move:
  %moved = call i32 @rename(ptr %part, ptr %path)
  %is_moved = icmp eq i32 %moved, 0
  br i1 %is_moved, label %done, label %undo
done:
  call void @bessemer_unlock(i32 %folder)
  ret i32 0
give_up:
  %f1 = $say @bessemer_not_written, ptr %path)
  %ignored = call i32 @close(i32 %file)
  br label %remove
undo:
  %f2 = $say @bessemer_not_written, ptr %path)
  br label %remove
remove:
  %removed = call i32 @unlink(ptr %part)
  call void @bessemer_unlock(i32 %folder)
  call void @bessemer_report(ptr %context, i32 10)
  ret i32 10
failed:
  %f3 = $say @bessemer_not_written, ptr %path)
  call void @bessemer_unlock(i32 %folder)
  call void @bessemer_report(ptr %context, i32 10)
  ret i32 10
}
"""

WRITING = _DECLARATIONS + "".join(c_string(*string) for string in _STRINGS.items()) + _CODE

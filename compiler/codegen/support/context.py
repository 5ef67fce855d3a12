"""Writes the functions that create, configure and destroy a model's context, as LLVM IR.

A context is what one thread needs to run the model: options, weights, thread pool, arena, the last
message. Nothing else is written to, so any number of contexts can run at the same time.
"""

from __future__ import annotations

from bessemer.compiler.codegen.support.constants import c_string

# From 4 MiB on, memory is in pages of 2 MiB, so far as these are whole: a processor fetches ahead
# within a page, and knows the places of few. 14 is MADV_HUGEPAGE, a wish that may go unheard.
_DECLARATIONS = """
declare i32 @posix_memalign(ptr, i64, i64)
declare i32 @madvise(ptr, i64, i32)
declare void @free(ptr)
declare i32 @snprintf(ptr, i64, ptr, ...)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""

_STRINGS = {
    "bessemer_plain": "%s",
    "bessemer_half_memory": "allocate and release must be given together",
    "bessemer_few_threads": "the number of threads is negative",
    "bessemer_no_memory": "%lld bytes could not be allocated",
    "bessemer_no_context": "there is no context: options.log gets the reason when none is created",
}

_MEMORY = """
define hidden ptr @bessemer_allocate(ptr %context, i64 %bytes) $baseline {
entry:
  %slot = alloca ptr
  %callback = field options.allocate, %context
  %user = field options.memory_user, %context
  %own = icmp eq ptr %callback, null
  br i1 %own, label %inside, label %outside
outside:
  %given = call ptr %callback(ptr %user, i64 %bytes, i64 64)
  ret ptr %given
inside:
  %is.large = icmp uge i64 %bytes, 4194304
  %alignment = select i1 %is.large, i64 2097152, i64 64
  %error = call i32 @posix_memalign(ptr %slot, i64 %alignment, i64 %bytes)
  %failed = icmp ne i32 %error, 0
  %memory = load ptr, ptr %slot
  %result = select i1 %failed, ptr null, ptr %memory
  %pages = select i1 %failed, i1 false, i1 %is.large
  br i1 %pages, label %advise, label %done
advise:
  %whole = and i64 %bytes, -2097152
  %ignored = call i32 @madvise(ptr %memory, i64 %whole, i32 14)
  br label %done
done:
  ret ptr %result
}

define hidden void @bessemer_release(ptr %context, ptr %memory, i64 %bytes) $baseline {
entry:
  %callback = field options.release, %context
  %user = field options.memory_user, %context
  %own = icmp eq ptr %callback, null
  br i1 %own, label %inside, label %outside
outside:
  call void %callback(ptr %user, ptr %memory, i64 %bytes)
  ret void
inside:
  call void @free(ptr %memory)
  ret void
}

define hidden void @bessemer_drop_arena(ptr %context) $baseline {
entry:
  %arena.at = getelementptr %bessemer.context, ptr %context, $context_arena
  %bytes.at = getelementptr %bessemer.context, ptr %context, $context_arena_bytes
  %arena = load ptr, ptr %arena.at
  %bytes = load i64, ptr %bytes.at
  %none = icmp eq ptr %arena, null
  br i1 %none, label %done, label %drop
drop:
  call void @bessemer_release(ptr %context, ptr %arena, i64 %bytes)
  store ptr null, ptr %arena.at
  store i64 0, ptr %bytes.at
  br label %done
done:
  ret void
}

; The arena with at least so many bytes; its contents are lost where it has to grow. 0 or a status.
define hidden i32 @bessemer_grow(ptr %context, i64 %bytes) $baseline {
entry:
  %arena.at = getelementptr %bessemer.context, ptr %context, $context_arena
  %bytes.at = getelementptr %bessemer.context, ptr %context, $context_arena_bytes
  %have = load i64, ptr %bytes.at
  %enough = icmp sge i64 %have, %bytes
  br i1 %enough, label %done, label %grow
grow:
  call void @bessemer_drop_arena(ptr %context)
  %arena = call ptr @bessemer_allocate(ptr %context, i64 %bytes)
  %failed = icmp eq ptr %arena, null
  br i1 %failed, label %refuse, label %keep
keep:
  store ptr %arena, ptr %arena.at
  store i64 %bytes, ptr %bytes.at
  br label %done
done:
  ret i32 0
refuse:
  %status = call i32 @bessemer_lack(ptr %context, i64 %bytes)
  ret i32 %status
}

define hidden void @bessemer_drop_state(ptr %context) $baseline {
entry:
  %state = field context.state, %context
  %bytes = field context.state_bytes, %context
  %none = icmp eq ptr %state, null
  br i1 %none, label %done, label %drop
drop:
  call void @bessemer_release(ptr %context, ptr %state, i64 %bytes)
  br label %done
done:
  ret void
}

define hidden void @bessemer_need(ptr %context, i64 %bytes) $baseline {
  %needed.at = getelementptr %bessemer.context, ptr %context, $context_needed
  store i64 %bytes, ptr %needed.at
  ret void
}
"""

_MESSAGES = """
; Hands the context's message to the log.
define hidden void @bessemer_report(ptr %context, i32 %status) $baseline {
entry:
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %log = field options.log, %context
  %user = field options.log_user, %context
  %silent = icmp eq ptr %log, null
  br i1 %silent, label %done, label %tell
tell:
  call void %log(ptr %user, i32 %status, ptr %message)
  br label %done
done:
  ret void
}

define hidden void @bessemer_fail(ptr %context, i32 %status, ptr %text) $baseline {
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %f = $say @bessemer_plain, ptr %text)
  call void @bessemer_report(ptr %context, i32 %status)
  ret void
}

define hidden ptr @bessemer_last_message(ptr %context) $baseline {
  %none = icmp eq ptr %context, null
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %text = select i1 %none, ptr @bessemer_no_context, ptr %message
  ret ptr %text
}

; A message about memory that is not to be had, and its status.
define hidden i32 @bessemer_lack(ptr %context, i64 %bytes) $baseline {
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %f = $say @bessemer_no_memory, i64 %bytes)
  call void @bessemer_report(ptr %context, i32 2)
  ret i32 2
}

; A message about number i (of an input, output or dim), with the status for a wrong argument.
define hidden i32 @bessemer_refuse(ptr %context, ptr %text, i32 %number) $baseline {
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %f = $say %text, i32 %number)
  call void @bessemer_report(ptr %context, i32 1)
  ret i32 1
}
"""

# The context is built on the stack and moved once its memory is there. Counting the processors
# reads files, some 50 microseconds: one thread does without.
_LIFE = """
define hidden void @bessemer_set_threads(ptr %context) $baseline {
entry:
  %threads.at = getelementptr %bessemer.options, ptr %context, $options_threads
  %spin.at = getelementptr %bessemer.options, ptr %context, $options_spin
  %asked = load i32, ptr %threads.at
  %alone = icmp eq i32 %asked, 1
  br i1 %alone, label %done, label %count
count:
  %spin.asked = load i32, ptr %spin.at
  %wide = call i64 @bessemer_processors()
  %processors = trunc i64 %wide to i32
  %is_asked = icmp sgt i32 %asked, 0
  %threads = select i1 %is_asked, i32 %asked, i32 %processors
  %default = icmp eq i32 %spin.asked, 0
  %spin = select i1 %default, i32 $default_spin, i32 %spin.asked
  %crowded = icmp sgt i32 %threads, %processors
  %patient = select i1 %crowded, i32 0, i32 %spin
  store i32 %threads, ptr %threads.at
  store i32 %patient, ptr %spin.at
  br label %done
done:
  ret void
}

define hidden i32 @bessemer_make_context(ptr %out, ptr %options) $baseline {
entry:
  %draft = alloca %bessemer.context, align 64
  %nowhere = icmp eq ptr %out, null
  br i1 %nowhere, label %invalid, label %clear
invalid:
  ret i32 1
clear:
  store ptr null, ptr %out
  call void @llvm.memset.p0.i64(ptr %draft, i8 0, i64 $context_bytes, i1 false)
  %plain = icmp eq ptr %options, null
  br i1 %plain, label %check, label %copy
copy:
  call void @llvm.memcpy.p0.p0.i64(ptr %draft, ptr %options, i64 $options_bytes, i1 false)
  br label %check
check:
  %fits = call i1 @bessemer_processor_fits()
  br i1 %fits, label %memory, label %unfit
unfit:
  call void @bessemer_fail(ptr %draft, i32 5, ptr @bessemer_unfit)
  ret i32 5
memory:
  %allocate = field options.allocate, %draft
  %release = field options.release, %draft
  %no_allocate = icmp eq ptr %allocate, null
  %no_release = icmp eq ptr %release, null
  %half = icmp ne i1 %no_allocate, %no_release
  %threads = field options.threads, %draft
  %few = icmp slt i32 %threads, 0
  %text = select i1 %half, ptr @bessemer_half_memory, ptr @bessemer_few_threads
  %wrong = or i1 %half, %few
  br i1 %wrong, label %refuse, label %move
refuse:
  call void @bessemer_fail(ptr %draft, i32 1, ptr %text)
  ret i32 1
move:
  call void @bessemer_set_threads(ptr %draft)
  %context = call ptr @bessemer_allocate(ptr %draft, i64 $context_bytes)
  %failed = icmp eq ptr %context, null
  br i1 %failed, label %no_memory, label %fill
no_memory:
  %lacking = call i32 @bessemer_lack(ptr %draft, i64 $context_bytes)
  ret i32 %lacking
fill:
  call void @llvm.memcpy.p0.p0.i64(ptr %context, ptr %draft, i64 $context_bytes, i1 false)
  %status = call i32 @bessemer_find_weights(ptr %context)
  %ready = icmp eq i32 %status, 0
  br i1 %ready, label %done, label %undo
done:
  store ptr %context, ptr %out
  ret i32 0
undo:
  call void @bessemer_drop_context(ptr %context)
  ret i32 %status
}

define hidden void @bessemer_drop_context(ptr %context) $baseline {
entry:
  %none = icmp eq ptr %context, null
  br i1 %none, label %done, label %drop
drop:
  call void @bessemer_pool_stop(ptr %context)
  call void @bessemer_drop_arena(ptr %context)
  call void @bessemer_drop_weights(ptr %context)
  call void @bessemer_drop_state(ptr %context)
  call void @bessemer_release(ptr %context, ptr %context, i64 $context_bytes)
  br label %done
done:
  ret void
}
"""


def number_of(function: str, kind: str, field: str) -> str:
    """A template of PREFIX_function(context), which returns one of the context's numbers; 0 without
    a context."""
    return f"""
define {kind} @${{prefix}}_{function}(ptr %context) $baseline {{
entry:
  %none = icmp eq ptr %context, null
  br i1 %none, label %absent, label %look
absent:
  ret {kind} 0
look:
  %number = field {field}, %context
  ret {kind} %number
}}
"""


_INTERFACE = """
define i32 @${prefix}_create(ptr %out, ptr %options) $baseline {
  %status = tail call i32 @bessemer_make_context(ptr %out, ptr %options)
  ret i32 %status
}

define void @${prefix}_destroy(ptr %context) $baseline {
  tail call void @bessemer_drop_context(ptr %context)
  ret void
}

define void @${prefix}_trim(ptr %context) $baseline {
entry:
  %none = icmp eq ptr %context, null
  br i1 %none, label %done, label %drop
drop:
  call void @bessemer_drop_arena(ptr %context)
  br label %done
done:
  ret void
}

define ptr @${prefix}_message(ptr %context) $baseline {
  %text = tail call ptr @bessemer_last_message(ptr %context)
  ret ptr %text
}
"""

INTERFACE = (
    _INTERFACE
    + number_of("arena_bytes", "i64", "context.arena_bytes")
    + number_of("needed_bytes", "i64", "context.needed")
    + number_of("threads", "i32", "options.threads")
)
"""The functions that C programs and the runtime call."""

TEXT = (
    _DECLARATIONS
    + "".join(c_string(*string) for string in _STRINGS.items())
    + _MESSAGES
    + _MEMORY
    + _LIFE
)

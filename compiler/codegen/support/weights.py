"""Finds an artifact's weights: inside of its file, in a file beside it, or given by the caller.

The object file always has a 64-byte label in a section of its own: magic, size, SHA-256, place. The
compiler writes it empty. `link.py` fills it in and, for weights inside of the file, extends the
section by the weights. So one object file serves every place, code can be cached without its
weights, and the weights never pass through LLVM. A weights file begins with the same label, which
is compared when the file is mapped: the weights of another model, or of another compilation, are
refused.
"""

from __future__ import annotations

import struct

from bessemer.compiler.codegen.support.constants import c_string

SECTION = ".rodata.bessemer"
LABEL_BYTES = 64
INSIDE, BESIDE = 1, 2
"""The places in a label; in that which the compiler emits it is 0."""

_DECLARATIONS = """
declare i32 @open(ptr, i32, ...)
declare i32 @close(i32)
declare i64 @lseek(i32, i64, i32)
declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @memcmp(ptr, ptr, i64)
"""

# %m is the text of errno.
_MESSAGES = {
    "bessemer_no_weights": "the weights are in a file of their own: set weights_path",
    "bessemer_misaligned": "the weights given are not aligned to 64 bytes",
    "bessemer_open_failed": "the weights file %s cannot be opened: %m",
    "bessemer_wrong_size": "the weights file %s has %lld bytes, %lld were expected",
    "bessemer_map_failed": "the weights file %s cannot be mapped: %m",
    "bessemer_wrong_label": "the weights file %s belongs to another model or compilation",
}

# The file's size must be exact, so that no access ever runs past the mapping (a bus error).
# 524288 is O_RDONLY | O_CLOEXEC; mmap(..., PROT_READ, MAP_PRIVATE, ...).
_CODE = """
@bessemer_label = external hidden constant [64 x i8], align 64
@bessemer_weights_bytes = external hidden constant i64

define hidden i32 @bessemer_find_weights(ptr %context) $baseline {
entry:
  %expected = load i64, ptr @bessemer_weights_bytes
  %weights.at = getelementptr %bessemer.context, ptr %context, $context_weights
  %mapping.at = getelementptr %bessemer.context, ptr %context, $context_mapping
  %mapping_bytes.at = getelementptr %bessemer.context, ptr %context, $context_mapping_bytes
  %message = getelementptr %bessemer.context, ptr %context, $context_message
  %inside = getelementptr i8, ptr @bessemer_label, i64 64
  store ptr %inside, ptr %weights.at
  %needless = icmp eq i64 %expected, 0
  br i1 %needless, label %done, label %look
look:
  %given = field options.weights, %context
  %is_given = icmp ne ptr %given, null
  br i1 %is_given, label %take, label %search
take:
  %address = ptrtoint ptr %given to i64
  %low = and i64 %address, 63
  %aligned = icmp eq i64 %low, 0
  store ptr %given, ptr %weights.at
  br i1 %aligned, label %done, label %misaligned
search:
  %place.at = getelementptr i8, ptr @bessemer_label, i64 48
  %place = load i32, ptr %place.at
  %is_inside = icmp eq i32 %place, 1
  br i1 %is_inside, label %done, label %file
file:
  %path = field options.weights_path, %context
  %no_path = icmp eq ptr %path, null
  br i1 %no_path, label %no_weights, label %open
open:
  %descriptor = call i32 (ptr, i32, ...) @open(ptr %path, i32 524288)
  %unopened = icmp slt i32 %descriptor, 0
  br i1 %unopened, label %open_failed, label %measure
measure:
  %bytes = call i64 @lseek(i32 %descriptor, i64 0, i32 2)
  %whole = add i64 %expected, 64
  %fits = icmp eq i64 %bytes, %whole
  br i1 %fits, label %map, label %wrong_size
map:
  %mapping = call ptr @mmap(ptr null, i64 %bytes, i32 1, i32 2, i32 %descriptor, i64 0)
  %mapped = ptrtoint ptr %mapping to i64
  %unmapped = icmp eq i64 %mapped, -1
  br i1 %unmapped, label %map_failed, label %keep
keep:
  %closed = call i32 @close(i32 %descriptor)
  store ptr %mapping, ptr %mapping.at
  store i64 %bytes, ptr %mapping_bytes.at
  %begin = getelementptr i8, ptr %mapping, i64 64
  store ptr %begin, ptr %weights.at
  %difference = call i32 @memcmp(ptr %mapping, ptr @bessemer_label, i64 48)
  %same = icmp eq i32 %difference, 0
  br i1 %same, label %done, label %wrong_label
done:
  ret i32 0
no_weights:
  %f1 = $say @bessemer_no_weights)
  br label %refuse
misaligned:
  %f2 = $say @bessemer_misaligned)
  br label %refuse
open_failed:
  %f3 = $say @bessemer_open_failed, ptr %path)
  br label %refuse
wrong_size:
  %c1 = call i32 @close(i32 %descriptor)
  %f4 = $say @bessemer_wrong_size, ptr %path, i64 %bytes, i64 %whole)
  br label %refuse
map_failed:
  %f5 = $say @bessemer_map_failed, ptr %path)
  %c2 = call i32 @close(i32 %descriptor)
  br label %refuse
wrong_label:
  %f6 = $say @bessemer_wrong_label, ptr %path)
  br label %refuse
refuse:
  call void @bessemer_report(ptr %context, i32 4)
  ret i32 4
}

define hidden void @bessemer_drop_weights(ptr %context) $baseline {
entry:
  %mapping = field context.mapping, %context
  %bytes = field context.mapping_bytes, %context
  %none = icmp eq ptr %mapping, null
  br i1 %none, label %done, label %unmap
unmap:
  %ignored = call i32 @munmap(ptr %mapping, i64 %bytes)
  br label %done
done:
  ret void
}
"""

# What each artifact has of its own. The label's zeros must not be folded into loads of it: the code
# is in another module.
OWN = """
@bessemer_label = hidden constant [64 x i8] zeroinitializer, section ".rodata.bessemer", align 64
@bessemer_weights_bytes = hidden constant i64 $weights_bytes
"""

TEXT = _DECLARATIONS + "".join(c_string(*message) for message in _MESSAGES.items()) + _CODE


def weights_label(size: int, sha256: str, place: int) -> bytes:
    """The label: 8 bytes of magic, the size, the SHA-256, the place, zeros."""
    digest = bytes.fromhex(sha256).ljust(32, b"\0")
    label = b"BSMRWGT1" + struct.pack("<Q", size) + digest + struct.pack("<I", place)
    return label.ljust(LABEL_BYTES, b"\0")

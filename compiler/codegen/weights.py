"""Where an artifact's weights are: inside its file, in a file beside it, or given by the caller.

The object file holds a 64-byte label in a section of its own, always: magic, size, SHA-256, place.
The compiler emits it empty; `link.py` fills it in and, for weights inside, lets the section grow by
the weights. So one object serves every place, code can be cached without its weights, and a hundred
megabytes never pass through LLVM. A weights file begins with the same label, which is compared when
the file is mapped: weights of another model, or of another compilation, are refused.
"""

from __future__ import annotations

import struct

SECTION = ".rodata.bessemer"
LABEL_BYTES = 64
NOWHERE, INSIDE, BESIDE = 0, 1, 2

DECLARATIONS = """
declare i32 @open(ptr, i32, ...)
declare i32 @close(i32)
declare i64 @lseek(i32, i64, i32)
declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @memcmp(ptr, ptr, i64)
"""

# The label is read through volatile loads: its contents are not those that the compiler sees.
# `size` in the file must be exact, so that no access ever runs past the mapping (a bus error).
TEXT = """
@bessemer_label = internal constant [64 x i8] zeroinitializer, section ".rodata.bessemer", align 64
@bessemer_w1 = internal constant [57 x i8] c"the weights are not inside: give weights or weights_path\\00"
@bessemer_w2 = internal constant [41 x i8] c"the weights file %s cannot be opened: %s\\00"
@bessemer_w3 = internal constant [55 x i8] c"the weights file %s has %lld bytes, expected were %lld\\00"
@bessemer_w4 = internal constant [57 x i8] c"the weights file %s belongs to another build of the mode\\00"
@bessemer_w5 = internal constant [41 x i8] c"the weights file %s cannot be mapped: %s\\00"
@bessemer_w6 = internal constant [45 x i8] c"the weights are not aligned to 64 bytes: %p\\0A\\00"

define internal i32 @bessemer_find_weights(ptr %context) $baseline {
entry:
  %weights.at = getelementptr %bessemer.context, ptr %context, $context_weights
  %given.at = getelementptr %bessemer.options, ptr %context, $options_weights
  %path.at = getelementptr %bessemer.options, ptr %context, $options_weights_path
  %inside = getelementptr i8, ptr @bessemer_label, i64 64
  store ptr %inside, ptr %weights.at
  %needless = icmp eq i64 $weights_bytes, 0
  br i1 %needless, label %done, label %look
"""


def weights_label(size: int, sha256: str, place: int) -> bytes:
    """The label: 8 bytes of magic, the size, the SHA-256, the place, zeros."""
    label = b"BSMRWGT1" + struct.pack("<Q", size) + bytes.fromhex(sha256) + struct.pack("<I", place)
    return label.ljust(LABEL_BYTES, b"\0")

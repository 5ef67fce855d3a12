"""Writes constant data of an artifact as LLVM IR: strings, and the tables of inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bessemer.runtime.artifact import DTYPE_CODES, ArrayInfo

VALUE = "%bessemer.value"
"""The struct type that describes an array."""
_UNUSUAL = re.compile(rb'[^ -~]|["\\]')
"""Bytes that LLVM's strings contain as numbers only."""


def c_string(name: str, text: str) -> str:
    """A zero-terminated UTF-8 string called @name. A zero inside of the text would end it in C."""
    data = text.encode().replace(b"\0", b"?") + b"\0"
    plain = _UNUSUAL.sub(lambda found: b"\\%02X" % found[0][0], data).decode("ascii")
    return f'@{name} = internal unnamed_addr constant [{len(data)} x i8] c"{plain}"\n'


def byte_string(name: str, data: bytes) -> str:
    """Bytes called @name, without a terminating zero."""
    text = "".join(f"\\{byte:02X}" for byte in data)
    return f'@{name} = internal unnamed_addr constant [{len(data)} x i8] c"{text}"\n'


def number_table(name: str, numbers: Sequence[int]) -> str:
    """An array @name of i64."""
    entries = ", ".join(f"i64 {number}" for number in numbers)
    body = f"[{entries}]" if numbers else "zeroinitializer"
    return f"@{name} = internal unnamed_addr constant [{len(numbers)} x i64] {body}\n"


def _pointers(name: str, targets: Sequence[str]) -> str:
    entries = ", ".join(f"ptr @{target}" for target in targets)
    body = f"[{entries}]" if targets else "zeroinitializer"
    return f"@{name} = internal unnamed_addr constant [{len(targets)} x ptr] {body}\n"


def text_table(name: str, texts: Sequence[str], function: str = "") -> str:
    """An array @name of pointers to strings. With a `function`, also a template of
    PREFIX_FUNCTION_count and PREFIX_FUNCTION_name, which read it."""
    table = _strings(name, texts)
    if not function:
        return table
    found = entry_function(f"_{function}_name", name, "ptr", len(texts))
    return table.replace("$", "$$") + _count(f"_{function}_count", len(texts)) + found


def array_table(function: str, arrays: Sequence[ArrayInfo]) -> str:
    """A template of PREFIX_FUNCTION_count and PREFIX_FUNCTION_info, which describe arrays."""
    name = f"bessemer_{function}_values"
    table = value_table(name, arrays).replace("$", "$$")
    found = entry_function(f"_{function}_info", name, VALUE, len(arrays))
    return table + _count(f"_{function}_count", len(arrays)) + found


def _strings(name: str, texts: Sequence[str]) -> str:
    """An array @name of pointers to strings."""
    labels = [f"{name}.{index}" for index in range(len(texts))]
    lines = [c_string(label, text) for label, text in zip(labels, texts, strict=True)]
    return "".join(lines) + _pointers(name, labels)


def _value(name: str, array: ArrayInfo) -> tuple[str, str]:
    """The initializer of an array's description, and the constants that it points to."""
    sizes = [size if isinstance(size, int) else -1 for size in array.shape]
    entries = ", ".join(f"i64 {size}" for size in sizes)
    body = f"[{entries}]" if sizes else "zeroinitializer"
    text = c_string(f"{name}.name", array.name)
    text += f"@{name}.shape = internal unnamed_addr constant [{len(sizes)} x i64] {body}\n"
    text += _strings(f"{name}.dims", [str(size) for size in array.shape])
    fields = (
        f"ptr @{name}.name, i32 {DTYPE_CODES[array.dtype]}, i32 {len(sizes)}, "
        f"ptr @{name}.shape, ptr @{name}.dims, i32 {int(array.data_dependent)}"
    )
    return f"{VALUE} {{ {fields} }}", text


def value_table(name: str, arrays: Sequence[ArrayInfo]) -> str:
    """An array @name of %bessemer.value, one for each of the arrays."""
    parts = [_value(f"{name}.{index}", array) for index, array in enumerate(arrays)]
    entries = ", ".join(entry for entry, _ in parts)
    body = f"[{entries}]" if parts else "zeroinitializer"
    table = f"@{name} = internal unnamed_addr constant [{len(parts)} x {VALUE}] {body}\n"
    return "".join(text for _, text in parts) + table


def entry_function(function: str, table: str, kind: str, count: int) -> str:
    """A template of PREFIXfunction(i32 i), which returns a pointer to entry i; null outside of the
    table."""
    found = f"getelementptr [{count} x {kind}], ptr @{table}, i32 0, i64 %wide"
    finish = f"  %at = {found}\n  ret ptr %at\n"
    if kind == "ptr":
        finish = f"  %at = {found}\n  %text = load ptr, ptr %at\n  ret ptr %text\n"
    return f"""
define ptr @${{prefix}}{function}(i32 %index) $baseline {{
  %inside = icmp ult i32 %index, {count}
  %wide = zext i32 %index to i64
  br i1 %inside, label %found, label %outside
found:
{finish}outside:
  ret ptr null
}}
"""


def _count(function: str, count: int) -> str:
    return f"\ndefine i32 @${{prefix}}{function}() $baseline {{\n  ret i32 {count}\n}}\n"

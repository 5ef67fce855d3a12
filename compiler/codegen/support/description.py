"""Writes the description of an artifact's model as LLVM IR: a table of facts, and functions that
read it.

The functions of two artifacts differ only in their prefix (see `interface_text` in support.py).
"""

from __future__ import annotations

from bessemer.compiler.codegen.support.constants import (
    VALUE,
    c_string,
    entry_function,
    text_table,
    value_table,
)
from bessemer.compiler.codegen.support.layout import Layout
from bessemer.runtime.artifact import STATUS_TEXTS, Signature

FACTS = Layout(
    "facts",
    (
        ("format", "i32"),
        ("input_count", "i32"),
        ("output_count", "i32"),
        ("dim_count", "i32"),
        ("inputs", "ptr"),
        ("outputs", "ptr"),
        ("dims", "ptr"),
        ("metadata", "ptr"),
        ("producer", "ptr"),
        ("features", "ptr"),
    ),
)


def facts_text(signature: Signature) -> str:
    """A template of the table @bessemer_facts and of the constants that it points to."""
    counts = (
        signature.format,
        len(signature.inputs),
        len(signature.outputs),
        len(signature.symbols),
    )
    names = ("inputs", "outputs", "dims", "metadata", "producer", "features")
    entries = [f"i32 {count}" for count in counts] + [f"ptr @bessemer_{name}" for name in names]
    text = "".join(
        (
            value_table("bessemer_inputs", signature.inputs),
            value_table("bessemer_outputs", signature.outputs),
            text_table("bessemer_dims", signature.symbols),
            c_string("bessemer_metadata", signature.to_json()),
            c_string("bessemer_producer", signature.producer),
            c_string("bessemer_features", ",".join(signature.cpu_features)),
            f"@bessemer_facts = hidden constant %bessemer.facts {{ {', '.join(entries)} }}\n",
        )
    )
    return text.replace("$", "$$")


def _fact(function: str, kind: str, field: str) -> str:
    """A template of PREFIX_function(), which returns one of the facts."""
    return f"""
define {kind} @${{prefix}}_{function}() $baseline {{
  %facts = getelementptr i8, ptr @bessemer_facts, i64 0
  %fact = field facts.{field}, %facts
  ret {kind} %fact
}}
"""


def _listed(function: str, kind: str, table: str, count: str) -> str:
    """A template of PREFIX_function(i32), which returns an entry of a table; null outside of it."""
    found = "  ret ptr %at\n"
    if kind == "ptr":
        found = "  %entry = load ptr, ptr %at\n  ret ptr %entry\n"
    return f"""
define ptr @${{prefix}}_{function}(i32 %index) $baseline {{
  %facts = getelementptr i8, ptr @bessemer_facts, i64 0
  %count = field facts.{count}, %facts
  %table = field facts.{table}, %facts
  %inside = icmp ult i32 %index, %count
  %wide = zext i32 %index to i64
  %at = getelementptr {kind}, ptr %table, i64 %wide
  br i1 %inside, label %found, label %outside
found:
{found}outside:
  ret ptr null
}}
"""


_STATUSES = [STATUS_TEXTS[status] for status in sorted(STATUS_TEXTS)]

INTERFACE = "".join(
    (
        "@bessemer_facts = external hidden constant %bessemer.facts\n",
        _fact("abi", "i32", "format"),
        _fact("input_count", "i32", "input_count"),
        _fact("output_count", "i32", "output_count"),
        _fact("dim_count", "i32", "dim_count"),
        _listed("input_info", VALUE, "inputs", "input_count"),
        _listed("output_info", VALUE, "outputs", "output_count"),
        _listed("dim_name", "ptr", "dims", "dim_count"),
        text_table("bessemer_statuses", _STATUSES),
        entry_function("_status_text", "bessemer_statuses", "ptr", len(_STATUSES)),
        _fact("metadata", "ptr", "metadata"),
        _fact("version", "ptr", "producer"),
        _fact("required_cpu", "ptr", "features"),
    )
)
"""The functions that C programs and the runtime call."""

"""The support code of an artifact: everything around a model's own functions, as LLVM IR text.

The program emitter writes PREFIX_body and PREFIX_workspace; this adds the C API on top of them and
the functions that the body may call:

    void bessemer_parallel(ptr context, ptr kernel, ptr buffers, ptr dims, i64 extent, i64 shares)
    void bessemer_join_team(ptr context, ptr kernel, ptr buffers, ptr dims, i64 cells, i64 place,
                            i64 most)
    void bessemer_barrier(ptr counters, i64 member, i64 members)
    void bessemer_fail(ptr context, i32 status, ptr message)
    void bessemer_need(ptr context, i64 bytes)
    ptr bessemer_output_place(ptr context, ptr outputs, i64 number, i64 bytes, ptr arena)

All but the API is hidden in the artifact, so that two models in one program do not meet. What does
not depend on the model, or on its prefix only, is in modules of its own (`shared_texts`,
`interface_text`), which a process compiles once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from string import Template

from bessemer.compiler.codegen.support import (
    context,
    cpus,
    description,
    entry,
    pool,
    run,
    spin,
    team,
    threads,
    trials,
    weights,
)
from bessemer.compiler.codegen.support.constants import VALUE, c_string
from bessemer.compiler.codegen.support.layout import LAYOUTS, MESSAGE_BYTES, expand_fields
from bessemer.compiler.codegen.support.processor import baseline, pause, processor_text
from bessemer.compiler.codegen.support.run import Body
from bessemer.compiler.codegen.support.sizes import OVERFLOW
from bessemer.compiler.codegen.support.string_table import string_table
from bessemer.compiler.errors import InternalError
from bessemer.runtime.artifact import Signature, check_signature

# Every global symbol of an artifact is PREFIX_ and one of these. All but the one that CPython calls
# are in the C header.
EXPORTS = (
    "abi",
    "arena_bytes",
    "create",
    "destroy",
    "dim_count",
    "dim_name",
    "input_count",
    "input_info",
    "message",
    "metadata",
    "needed_bytes",
    "output_count",
    "output_info",
    entry.NAME,
    "required_cpu",
    "run",
    "status_text",
    "threads",
    "trim",
    "version",
    "workspace_bytes",
)

# Finishing workers look for more work this long before they sleep. A sleeping thread takes 5 to 60
# microseconds to wake, and the parallel sections of one run follow each other faster than that.
DEFAULT_SPIN_MICROSECONDS = 200

# Before that, they look this often without a system call: a microsecond or three.
GLANCES = 100

# Smallest shares (see shares.py), of one job or of several small ones that found nobody awake, from
# which on the next job wakes sleepers: twice what that takes.
WORTH_WAKING = 48


_ALL_LAYOUTS = (*LAYOUTS, run.GRAPH, description.FACTS, *entry.LAYOUTS)

_SHARED = "".join(
    part.TEXT for part in (context, weights, cpus, spin, threads, pool, team, trials, run)
)

_WORKSPACE_BYTES = """
define i64 @${prefix}_workspace_bytes(ptr %dims) $baseline {
entry:
  %graph = getelementptr i8, ptr @${prefix}_graph, i64 0
  %workspace = field graph.workspace, %graph
  %count = field graph.input_dim_count, %graph
  %has_dims = icmp ne i32 %count, 0
  %no_dims = icmp eq ptr %dims, null
  %unsized = and i1 %no_dims, %has_dims
  br i1 %unsized, label %absurd, label %look
absurd:
  ret i64 -1
look:
  %bytes = call i64 %workspace(ptr %dims)
  ret i64 %bytes
}
"""


def support_text(signature: Signature) -> str:
    """The LLVM IR of the model's own support code, which is added to the model's functions: the
    description for the C API, and what the run body calls. Raises as `runtime_text`."""
    body = Body(signature.prefix, signature, is_public=True)
    table = "" if signature.strings is None else string_table(signature.strings)
    return runtime_text(signature, [body], entry.sizes_after_text(signature) + table)


def runtime_text(
    signature: Signature,
    bodies: Sequence[Body],
    interface: str,
    names: Mapping[str, str | int] | None = None,
) -> str:
    """LLVM IR of one artifact's own support: its description, and what runs each body.

    It declares the functions of `shared_texts`. `interface` is a template of what the C API has
    beside `interface_text`, of the layouts' names and `names`.

    Raises InternalError for a signature that contradicts itself.
    """
    try:
        check_signature(signature)
    except ValueError as error:
        raise InternalError(f"the signature of {signature.name!r} is wrong: {error}") from None
    processor = processor_text(signature.triple, signature.cpu_features)
    template = "".join(
        (
            _types(),
            c_string("bessemer_overflow", OVERFLOW),
            description.facts_text(signature),
            declarations(processor + _SHARED),
            *(run.graph_text(body) for body in bodies),
            *(run.run_text(body.name, "internal ") for body in bodies if not body.is_public),
            weights.OWN,
            interface,
        )
    )
    own: dict[str, str | int] = {
        "prefix": signature.prefix,
        "weights_bytes": signature.weights_bytes,
    }
    return _filled(template, signature.triple, {**own, **(names or {})})


@lru_cache(maxsize=16)
def shared_texts(triple: str, features: tuple[str, ...], has_entry: bool = True) -> tuple[str, ...]:
    """LLVM IR of the modules that are the same in all artifacts for a processor, whose functions
    are hidden: the support code, and where the artifact has one, Python's entry.

    Raises InternalError for an unknown architecture, or a processor feature that nobody knows how
    to check.
    """
    support = _unfit(features) + processor_text(triple, features) + _SHARED
    modules = (support, entry.TEXT) if has_entry else (support,)
    return tuple(_filled(_types() + text, triple, {}) for text in modules)


@lru_cache(maxsize=64)
def interface_text(prefix: str, triple: str, has_entry: bool) -> str:
    """LLVM IR of the C API that all artifacts with a prefix have alike, those that Python calls
    (`has_entry`) or training libraries."""
    parts = [description.INTERFACE, context.INTERFACE]
    if has_entry:
        parts += [run.INTERFACE, _WORKSPACE_BYTES, entry.INTERFACE]
    called = declarations(_SHARED + (entry.TEXT if has_entry else ""))
    declared = "\n".join(dict.fromkeys(called.splitlines()))
    return _filled("\n".join((_types(), declared, *parts)), triple, {"prefix": prefix})


_HEAD = re.compile(
    r"^(?:define (?P<own>hidden [^{]*?)\s(?:noinline optnone )?\$baseline|declare (?P<foreign>.*))",
    re.M,
)


@lru_cache(maxsize=16)
def declarations(template: str) -> str:
    """Declarations of the hidden functions that a template defines or declares."""
    found = (head["own"] or head["foreign"] for head in _HEAD.finditer(template))
    return "".join(f"declare {' '.join(head.split())}\n" for head in found)


def _types() -> str:
    value = f"{VALUE} = type {{ ptr, i32, i32, ptr, ptr, i32 }}\n"
    return value + "".join(layout.definition() + "\n" for layout in _ALL_LAYOUTS)


def _filled(template: str, triple: str, own: Mapping[str, str | int]) -> str:
    machine = {"baseline": baseline(triple), "pause": pause(triple)}
    text = expand_fields(template, _ALL_LAYOUTS)
    return Template(text).substitute(_names(), **machine, **own)


def _unfit(features: Sequence[str]) -> str:
    """The message of an artifact on a processor that lacks features."""
    unfit = f"the processor lacks one of: {', '.join(features)}"
    if "amx-tile" in features:
        unfit += (
            "; or the system does not let this process use AMX (Linux does from 5.16 on, unless "
            "a thread has an alternative signal stack that is too small for it)"
        )
    return c_string("bessemer_unfit", unfit).replace("$", "$$")


def _names() -> dict[str, str | int]:
    """The values of names in the templates that are the same for all artifacts."""
    names: dict[str, str | int] = {
        "message_bytes": MESSAGE_BYTES,
        # Writes a formatted text into %message.
        "say": f"call i32 (ptr, i64, ptr, ...) @snprintf(ptr %message, i64 {MESSAGE_BYTES}, ptr",
        "default_spin": DEFAULT_SPIN_MICROSECONDS,
        "glances": GLANCES,
        "worth_waking": WORTH_WAKING,
        **trials.NAMES,
        "team_members": team.MOST_MEMBERS,
        "team_cell": team.CELL_BYTES,
        "team_wait": team.LONG_WAIT,
        "team_fewest_alone": team.FEWEST_ALONE,
        "team_most_alone": team.MOST_ALONE,
        "team_shares": team.SHARES,
        "team_bytes": team.MOST_MEMBERS * team.CELL_BYTES,
    }
    names |= entry.NAMES
    for layout in _ALL_LAYOUTS:
        names |= layout.places()
        names[f"{layout.name}_bytes"] = layout.bytes()
    return names

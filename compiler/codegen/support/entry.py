"""Writes PREFIX_python_N, the function by which CPython calls a model, as LLVM IR.

    PyObject *PREFIX_python_N(PyObject *objects, PyObject *const *arguments, Py_ssize_t count,
                              PyObject *keywords)

runtime/entry.py makes the tables that it reads, and says why there is such a function. The code
knows nothing of Python except offsets in structs: the type in PyObject; data, rank, shape, dtype
and flags in NumPy's array object (whose layout is part of NumPy's binary interface); and the eight
bytes of a dtype that hold its kind, byte order and number. The runtime checks all of these.

Two of the calls can run Python code: looking a name up in a dictionary (keys may define how they
compare) and making a list (garbage collection runs destructors). So the function owns references to
the caller's arrays from the moment it finds them, and compares the plan's generation once more
before using the plan.
"""

from __future__ import annotations

from bessemer.compiler.codegen.support import (
    entry_arrays,
    entry_blocks,
    entry_data_dependent,
    entry_given,
)
from bessemer.compiler.codegen.support.layout import Layout
from bessemer.compiler.codegen.support.sizes import StraightCode
from bessemer.compiler.ir.text.parse_sizes import parse_size
from bessemer.runtime.artifact import Signature
from bessemer.runtime.entry import LARGE_OUTPUT, MOST_ARRAYS, OBJECTS, VERSION, WORDS, sizes_after

ARRAY = Layout(
    "array",
    (
        ("references", "i64"),
        ("type", "ptr"),
        ("data", "ptr"),
        ("rank", "i32"),
        ("shape", "ptr"),
        ("strides", "ptr"),
        ("owner", "ptr"),
        ("dtype", "ptr"),
        ("flags", "i32"),
    ),
)
DTYPE = Layout(
    "dtype", (("references", "i64"), ("type", "ptr"), ("scalar", "ptr"), ("kind", "i64"))
)
_PLAIN_WORDS = ("generation", "input_count", "output_count", "symbol_count", "symbols", "shapes")
TABLE = Layout("words", tuple((n, "i64" if n in _PLAIN_WORDS else "ptr") for n in WORDS))
LIST = Layout("objects", tuple((name, "ptr") for name in OBJECTS))

_DECLARATIONS = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\n"

# Runs in an idle context; other Python threads go on meanwhile. The outputs, or null with Python's
# error set; *declined becomes 1 where no context was idle.
_CALL = """
define hidden ptr @bessemer_python_call(
  ptr %run, ptr %sizes_after, ptr %objects, ptr %words, ptr %inputs, ptr %outputs, ptr %dims,
  ptr %room, ptr %results, ptr %declined
) $baseline {
entry:
  %arguments = alloca [2 x ptr]
  %idle = field objects.idle, %objects
  %size = field words.PyList_Size, %words
  %own = field words.Py_IncRef, %words
  %drop = field words.Py_DecRef, %words
  %waiting = call i64 %size(ptr %idle)
  %none = icmp sle i64 %waiting, 0
  br i1 %none, label %all_busy, label %take
all_busy:
  store i8 1, ptr %declined
  ret ptr null
take:
  %item = field words.PyList_GetItem, %words
  %cut = field words.PyList_SetSlice, %words
  %number = field words.PyLong_AsVoidPtr, %words
  %last = sub i64 %waiting, 1
  %handle = call ptr %item(ptr %idle, i64 %last)
  call void %own(ptr %handle)
  %ignored = call i32 %cut(ptr %idle, i64 %last, i64 %waiting, ptr null)
  %context = call ptr %number(ptr %handle)
  %leave = field words.PyEval_SaveThread, %words
  %return = field words.PyEval_RestoreThread, %words
  %thread = call ptr %leave()
  %rooms.at = getelementptr %bessemer.context, ptr %context, $context_rooms
  store ptr %room, ptr %rooms.at
  %status = call i32 %run(
    ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr null, i64 0
  )
  store ptr null, ptr %rooms.at
  call void %return(ptr %thread)
  %fine = icmp eq i32 %status, 0
  br i1 %fine, label %collect, label %fail
collect:
  call void %sizes_after(ptr %dims)
  %complete = call i1 @bessemer_python_data_dependent(
    ptr %objects, ptr %words, ptr %outputs, ptr %dims, ptr %room, ptr %results
  )
  br i1 %complete, label %give_back, label %no_memory
no_memory:
  call void %drop(ptr %results)
  br label %give_back
fail:
  call void %drop(ptr %results)
  %failed = field objects.failed, %objects
  %integer = field words.PyLong_FromLong, %words
  %ask = field words.PyObject_Vectorcall, %words
  %status.wide = sext i32 %status to i64
  %code = call ptr %integer(i64 %status.wide)
  %code.at = getelementptr ptr, ptr %arguments, i64 1
  store ptr %handle, ptr %arguments
  store ptr %code, ptr %code.at
  %raised = call ptr %ask(ptr %failed, ptr %arguments, i64 2, ptr null)
  call void %drop(ptr %code)
  br label %give_back
give_back:
  %result = phi ptr [ %results, %collect ], [ null, %no_memory ], [ %raised, %fail ]
  %append = field words.PyList_Append, %words
  %lost = call i32 %append(ptr %idle, ptr %handle)
  %kept = icmp eq i32 %lost, 0
  br i1 %kept, label %done, label %forget
forget:
  ; Without memory for the list, the context stays unused until the model goes.
  %forget.function = field words.PyErr_Clear, %words
  call void %forget.function()
  br label %done
done:
  call void %drop(ptr %handle)
  ret ptr %result
}
"""

_ENTRY = """
define hidden ptr @bessemer_python(
  ptr %run, ptr %sizes_after, ptr %self, ptr %arguments, i64 %count, ptr %keywords
) $baseline {
entry:
  %values = alloca [$most x ptr]
  %inputs = alloca [$most x ptr]
  %inputs.end = alloca [$most x ptr]
  %outputs = alloca [$most x ptr]
  %dims = alloca [$most x i64]
  %room = alloca [$most x i64]
  %declined = alloca i8
  %objects = field array.data, %self
  %holder = field objects.words, %objects
  %words = field array.data, %holder
  br label %begin
begin:
  %is_first = phi i1 [ true, %entry ], [ false, %planned_anew ]
  store i8 0, ptr %declined
  %generation = load i64, ptr %words
  %drop = field words.Py_DecRef, %words
  %planned = icmp ne i64 %generation, 0
  br i1 %planned, label %parse, label %explain
parse:
  %out = call ptr @bessemer_python_out(
    ptr %objects, ptr %words, ptr %arguments, i64 %count, ptr %keywords, ptr %declined
  )
  %parsed = load i8, ptr %declined
  %understood = icmp eq i8 %parsed, 0
  br i1 %understood, label %look, label %explain
look:
  %given = load ptr, ptr %arguments
  %taken = field words.input_count, %words
  %names = getelementptr %bessemer.objects, ptr %objects, i64 1
  %dtypes = getelementptr ptr, ptr %names, i64 %taken
  %rows = getelementptr %bessemer.words, ptr %words, i64 1
  ; 257: C-contiguous and aligned
  %fits = call i1 @bessemer_python_arrays(
    ptr %objects, ptr %words, ptr %given, i64 %taken, ptr %names, ptr %dtypes, ptr %rows, i32 257,
    ptr %values, ptr %inputs, ptr %inputs.end
  )
  br i1 %fits, label %prepare, label %explain
prepare:
  %symbols = field words.symbols, %words
  %symbol_count = field words.symbol_count, %words
  %symbols.bytes = shl i64 %symbol_count, 3
  %symbols.from = getelementptr i64, ptr %words, i64 %symbols
  call void @llvm.memcpy.p0.p0.i64(ptr %dims, ptr %symbols.from, i64 %symbols.bytes, i1 false)
  %allocates = icmp eq ptr %out, null
  br i1 %allocates, label %allocate, label %take
allocate:
  %made = call ptr @bessemer_python_outputs(
    ptr %objects, ptr %words, ptr %outputs, ptr %room
  )
  br label %prepared
take:
  %placed = call ptr @bessemer_python_given(
    ptr %objects, ptr %words, ptr %out, ptr %inputs, ptr %inputs.end, ptr %outputs, ptr %declined
  )
  br label %prepared
prepared:
  %results = phi ptr [ %made, %allocate ], [ %placed, %take ]
  %has_outputs = icmp ne ptr %results, null
  br i1 %has_outputs, label %compare, label %judge_outputs
judge_outputs:
  %refused = load i8, ptr %declined
  %no_memory = icmp eq i8 %refused, 0
  br i1 %no_memory, label %release, label %undo
compare:
  %generation.now = load i64, ptr %words
  %unchanged = icmp eq i64 %generation, %generation.now
  br i1 %unchanged, label %start, label %drop_results
start:
  %found = call ptr @bessemer_python_call(
    ptr %run, ptr %sizes_after, ptr %objects, ptr %words, ptr %inputs, ptr %outputs, ptr %dims,
    ptr %room, ptr %results, ptr %declined
  )
  %was_busy = load i8, ptr %declined
  %ran = icmp eq i8 %was_busy, 0
  br i1 %ran, label %release, label %drop_results
drop_results:
  call void %drop(ptr %results)
  br label %undo
release:
  %answer = phi ptr [ null, %judge_outputs ], [ %found, %start ]
  call void @bessemer_python_release(ptr %words, ptr %values, i64 %taken)
  ret ptr %answer
undo:
  call void @bessemer_python_release(ptr %words, ptr %values, i64 %taken)
  br label %explain
explain:
  %first = field objects.first, %objects
  %fallback = field objects.fallback, %objects
  %asked_one = select i1 %is_first, ptr %first, ptr %fallback
  %ask = field words.PyObject_Vectorcall, %words
  %asked = call ptr %ask(ptr %asked_one, ptr %arguments, i64 %count, ptr %keywords)
  %has_raised = icmp eq ptr %asked, null
  br i1 %has_raised, label %answered, label %judge
judge:
  ; what is no list is None
  %list = field objects.list, %objects
  %asked.type = field array.type, %asked
  %is_answer = icmp eq ptr %asked.type, %list
  br i1 %is_answer, label %answered, label %planned_anew
planned_anew:
  call void %drop(ptr %asked)
  br label %begin
answered:
  ret ptr %asked
}
"""

INTERFACE = """
declare hidden void @${prefix}_sizes_after(ptr)

define ptr @${prefix}_python_$version(
  ptr %self, ptr %arguments, i64 %count, ptr %keywords
) $baseline {
  %answer = tail call ptr @bessemer_python(
    ptr @${prefix}_run, ptr @${prefix}_sizes_after,
    ptr %self, ptr %arguments, i64 %count, ptr %keywords
  )
  ret ptr %answer
}
"""


def sizes_after_text(signature: Signature) -> str:
    """`void PREFIX_sizes_after(ptr dims)`, which stores the other sizes of `sizes_after` behind the
    symbols."""
    writer, known = StraightCode(signature.symbols, checks=False), len(signature.symbols)
    for number, size in enumerate(sizes_after(signature)[known:], known):
        register = writer.sizes.value(parse_size(size))
        place = writer.let(f"getelementptr i64, ptr %dims, i64 {number}")
        writer.put(f"store i64 {register}, ptr {place}")
    head = f"void @{signature.prefix}_sizes_after(ptr %dims)"
    return writer.function(head, "ret void", linkage="hidden")


LAYOUTS = (ARRAY, DTYPE, TABLE, LIST)
NAME = f"python_{VERSION}"
NAMES: dict[str, str | int] = {"version": VERSION, "most": MOST_ARRAYS, "large": LARGE_OUTPUT}
_PARTS = (entry_arrays, entry_blocks, entry_given, entry_data_dependent)
TEXT = "".join((_DECLARATIONS, *(part.TEXT for part in _PARTS), _CALL, _ENTRY))

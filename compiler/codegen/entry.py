"""PREFIX_python_N as LLVM IR: the entry by which CPython calls a model.

    PyObject *PREFIX_python_N(PyObject *objects, PyObject *const *arguments, Py_ssize_t count,
                              PyObject *keywords)

runtime/entry.py makes the tables that it works on and explains what it is for. Nothing of Python is
named here but places in structs: of PyObject the type, of NumPy's array object (whose layout is
part of NumPy's binary interface) data, rank, shape, dtype and flags. The runtime checks them.

Python code can run inside two of the calls: looking a name up in a dictionary (keys may compare
as they like) and making a list (destructors of collected garbage). So the inputs are owned from the
moment they are found, and the plan's generation is compared once more before it is believed.
"""

from __future__ import annotations

from bessemer.compiler.codegen.layout import Layout
from bessemer.runtime.entry import MOST_ARRAYS, OBJECTS, VERSION, WORDS

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
_PLAIN_WORDS = ("generation", "input_count", "output_count", "symbol_count", "symbols", "shapes")
TABLE = Layout("words", tuple((n, "i64" if n in _PLAIN_WORDS else "ptr") for n in WORDS))
LIST = Layout("objects", tuple((name, "ptr") for name in OBJECTS))

# Gives the first `count` inputs back.
_RELEASE = """
define internal void @bessemer_python_release(ptr %words, ptr %values, i64 %count) $baseline {
entry:
  %drop.at = getelementptr %bessemer.words, ptr %words, $words_Py_DecRef
  %drop = load ptr, ptr %drop.at
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %one ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %value.at = getelementptr ptr, ptr %values, i64 %i
  %value = load ptr, ptr %value.at
  call void %drop(ptr %value)
  %i.next = add i64 %i, 1
  br label %next
done:
  ret void
}
"""

# Whether an input is an array as planned; `row` is its rank and shape.
_FITS = """
define internal i1 @bessemer_python_fits(ptr %value, ptr %kind, ptr %dtype, ptr %row) $baseline {
entry:
  %type.at = getelementptr %bessemer.array, ptr %value, $array_type
  %type = load ptr, ptr %type.at
  %is_array = icmp eq ptr %type, %kind
  br i1 %is_array, label %look, label %no
look:
  %rank.at = getelementptr %bessemer.array, ptr %value, $array_rank
  %shape.at = getelementptr %bessemer.array, ptr %value, $array_shape
  %dtype.at = getelementptr %bessemer.array, ptr %value, $array_dtype
  %flags.at = getelementptr %bessemer.array, ptr %value, $array_flags
  %rank = load i32, ptr %rank.at
  %shape = load ptr, ptr %shape.at
  %dtype.found = load ptr, ptr %dtype.at
  %flags = load i32, ptr %flags.at
  %wide = sext i32 %rank to i64
  %planned = load i64, ptr %row
  %same_rank = icmp eq i64 %wide, %planned
  %same_dtype = icmp eq ptr %dtype.found, %dtype
  ; C-contiguous and aligned
  %kept = and i32 %flags, 257
  %straight = icmp eq i32 %kept, 257
  %same_kind = and i1 %same_rank, %same_dtype
  %fine = and i1 %same_kind, %straight
  br i1 %fine, label %next, label %no
next:
  %axis = phi i64 [ 0, %look ], [ %following, %compare ]
  %more = icmp slt i64 %axis, %planned
  br i1 %more, label %compare, label %yes
compare:
  %following = add i64 %axis, 1
  %size.at = getelementptr i64, ptr %shape, i64 %axis
  %size = load i64, ptr %size.at
  %wanted.at = getelementptr i64, ptr %row, i64 %following
  %wanted = load i64, ptr %wanted.at
  %equal = icmp eq i64 %size, %wanted
  br i1 %equal, label %next, label %no
yes:
  ret i1 true
no:
  ret i1 false
}
"""

# Finds the inputs in a dict, list or tuple, owns them and notes where their data is. Owns nothing
# where they are not as planned.
_INPUTS = """
define internal i1 @bessemer_python_inputs(
  ptr %objects, ptr %words, ptr %given, ptr %values, ptr %data
) $baseline {
entry:
  %dict.at = getelementptr %bessemer.objects, ptr %objects, $objects_dict
  %list.at = getelementptr %bessemer.objects, ptr %objects, $objects_list
  %tuple.at = getelementptr %bessemer.objects, ptr %objects, $objects_tuple
  %array.at = getelementptr %bessemer.objects, ptr %objects, $objects_array
  %count.at = getelementptr %bessemer.words, ptr %words, $words_input_count
  %own.at = getelementptr %bessemer.words, ptr %words, $words_Py_IncRef
  %forget.at = getelementptr %bessemer.words, ptr %words, $words_PyErr_Clear
  %look_up.at = getelementptr %bessemer.words, ptr %words, $words_PyDict_GetItemWithError
  %dict = load ptr, ptr %dict.at
  %list = load ptr, ptr %list.at
  %tuple = load ptr, ptr %tuple.at
  %array = load ptr, ptr %array.at
  %count = load i64, ptr %count.at
  %own = load ptr, ptr %own.at
  %forget = load ptr, ptr %forget.at
  %look_up = load ptr, ptr %look_up.at
  %names = getelementptr %bessemer.objects, ptr %objects, i64 1
  %dtypes = getelementptr ptr, ptr %names, i64 %count
  %plan = getelementptr %bessemer.words, ptr %words, i64 1
  %type.at = getelementptr %bessemer.array, ptr %given, $array_type
  %type = load ptr, ptr %type.at
  %is_dict = icmp eq ptr %type, %dict
  %is_list = icmp eq ptr %type, %list
  %is_tuple = icmp eq ptr %type, %tuple
  %dict_size = getelementptr %bessemer.words, ptr %words, $words_PyDict_Size
  %list_size = getelementptr %bessemer.words, ptr %words, $words_PyList_Size
  %tuple_size = getelementptr %bessemer.words, ptr %words, $words_PyTuple_Size
  %list_item = getelementptr %bessemer.words, ptr %words, $words_PyList_GetItem
  %tuple_item = getelementptr %bessemer.words, ptr %words, $words_PyTuple_GetItem
  %sequence_size = select i1 %is_tuple, ptr %tuple_size, ptr %list_size
  %measure.at = select i1 %is_dict, ptr %dict_size, ptr %sequence_size
  %item.at = select i1 %is_tuple, ptr %tuple_item, ptr %list_item
  %is_ordered = or i1 %is_list, %is_tuple
  %is_known = or i1 %is_dict, %is_ordered
  br i1 %is_known, label %measure, label %no
measure:
  %measure.function = load ptr, ptr %measure.at
  %item = load ptr, ptr %item.at
  %size = call i64 %measure.function(ptr %given)
  %complete = icmp eq i64 %size, %count
  br i1 %complete, label %next, label %no
next:
  %i = phi i64 [ 0, %measure ], [ %taken, %good ]
  %row = phi ptr [ %plan, %measure ], [ %row.next, %good ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %find, label %yes
find:
  br i1 %is_dict, label %by_name, label %in_order
by_name:
  %name.at = getelementptr ptr, ptr %names, i64 %i
  %name = load ptr, ptr %name.at
  %named = call ptr %look_up(ptr %given, ptr %name)
  br label %found
in_order:
  %placed = call ptr %item(ptr %given, i64 %i)
  br label %found
found:
  %value = phi ptr [ %named, %by_name ], [ %placed, %in_order ]
  %missing = icmp eq ptr %value, null
  br i1 %missing, label %unknown, label %check
unknown:
  call void %forget()
  br label %undo
check:
  call void %own(ptr %value)
  %taken = add i64 %i, 1
  %value.at = getelementptr ptr, ptr %values, i64 %i
  store ptr %value, ptr %value.at
  %dtype.at = getelementptr ptr, ptr %dtypes, i64 %i
  %dtype = load ptr, ptr %dtype.at
  %fits = call i1 @bessemer_python_fits(ptr %value, ptr %array, ptr %dtype, ptr %row)
  br i1 %fits, label %good, label %undo
good:
  %data.from = getelementptr %bessemer.array, ptr %value, $array_data
  %data.here = load ptr, ptr %data.from
  %data.at = getelementptr ptr, ptr %data, i64 %i
  store ptr %data.here, ptr %data.at
  %rank = load i64, ptr %row
  %words.used = add i64 %rank, 1
  %row.next = getelementptr i64, ptr %row, i64 %words.used
  br label %next
undo:
  %held = phi i64 [ %i, %unknown ], [ %taken, %check ]
  call void @bessemer_python_release(ptr %words, ptr %values, i64 %held)
  br label %no
yes:
  ret i1 true
no:
  ret i1 false
}
"""

# A new array; `row` is the bytes to allocate for one that begins at a cache line, or 0, then rank
# and shape. Null with Python's error set where there is no memory.
_OUTPUT = """
define internal ptr @bessemer_python_output(
  ptr %objects, ptr %words, ptr %dtype, ptr %row
) $baseline {
entry:
  %length = alloca i64
  %array.at = getelementptr %bessemer.objects, ptr %objects, $objects_array
  %bytes.at = getelementptr %bessemer.objects, ptr %objects, $objects_memory
  %make.at = getelementptr %bessemer.words, ptr %words, $words_PyArray_NewFromDescr
  %keep.at = getelementptr %bessemer.words, ptr %words, $words_PyArray_SetBaseObject
  %own.at = getelementptr %bessemer.words, ptr %words, $words_Py_IncRef
  %drop.at = getelementptr %bessemer.words, ptr %words, $words_Py_DecRef
  %array = load ptr, ptr %array.at
  %bytes = load ptr, ptr %bytes.at
  %make = load ptr, ptr %make.at
  %keep = load ptr, ptr %keep.at
  %own = load ptr, ptr %own.at
  %drop = load ptr, ptr %drop.at
  %padded = load i64, ptr %row
  %rank.at = getelementptr i64, ptr %row, i64 1
  %shape = getelementptr i64, ptr %row, i64 2
  %rank.wide = load i64, ptr %rank.at
  %rank = trunc i64 %rank.wide to i32
  %plain = icmp eq i64 %padded, 0
  br i1 %plain, label %direct, label %memory
direct:
  ; NewFromDescr takes the reference to the dtype.
  call void %own(ptr %dtype)
  %made = call ptr %make(
    ptr %array, ptr %dtype, i32 %rank, ptr %shape, ptr null, ptr null, i32 0, ptr null
  )
  ret ptr %made
memory:
  store i64 %padded, ptr %length
  call void %own(ptr %bytes)
  %block = call ptr %make(
    ptr %array, ptr %bytes, i32 1, ptr %length, ptr null, ptr null, i32 0, ptr null
  )
  %none = icmp eq ptr %block, null
  br i1 %none, label %fail, label %view
view:
  %begin.at = getelementptr %bessemer.array, ptr %block, $array_data
  %begin = load i64, ptr %begin.at
  %beyond = add i64 %begin, 63
  %aligned = and i64 %beyond, -64
  %start = inttoptr i64 %aligned to ptr
  call void %own(ptr %dtype)
  ; 1281: C-contiguous, aligned, writeable
  %found = call ptr %make(
    ptr %array, ptr %dtype, i32 %rank, ptr %shape, ptr null, ptr %start, i32 1281, ptr null
  )
  %refused = icmp eq ptr %found, null
  br i1 %refused, label %give_up, label %tie
give_up:
  call void %drop(ptr %block)
  br label %fail
tie:
  ; SetBaseObject takes the reference to the block, also where it fails.
  %status = call i32 %keep(ptr %found, ptr %block)
  %loose = icmp ne i32 %status, 0
  br i1 %loose, label %untie, label %done
untie:
  call void %drop(ptr %found)
  br label %fail
fail:
  ret ptr null
done:
  ret ptr %found
}

; The list of all outputs, whose data is noted; or null.
define internal ptr @bessemer_python_outputs(ptr %objects, ptr %words, ptr %data) $baseline {
entry:
  %inputs.at = getelementptr %bessemer.words, ptr %words, $words_input_count
  %count.at = getelementptr %bessemer.words, ptr %words, $words_output_count
  %shapes.at = getelementptr %bessemer.words, ptr %words, $words_shapes
  %list.at = getelementptr %bessemer.words, ptr %words, $words_PyList_New
  %put.at = getelementptr %bessemer.words, ptr %words, $words_PyList_SetItem
  %drop.at = getelementptr %bessemer.words, ptr %words, $words_Py_DecRef
  %inputs = load i64, ptr %inputs.at
  %count = load i64, ptr %count.at
  %shapes = load i64, ptr %shapes.at
  %make = load ptr, ptr %list.at
  %put = load ptr, ptr %put.at
  %drop = load ptr, ptr %drop.at
  %names = getelementptr %bessemer.objects, ptr %objects, i64 1
  %skipped = shl i64 %inputs, 1
  %dtypes = getelementptr ptr, ptr %names, i64 %skipped
  %first = getelementptr i64, ptr %words, i64 %shapes
  %list = call ptr %make(i64 %count)
  %none = icmp eq ptr %list, null
  br i1 %none, label %done, label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %keep ]
  %row = phi ptr [ %first, %entry ], [ %row.next, %keep ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %dtype.at = getelementptr ptr, ptr %dtypes, i64 %i
  %dtype = load ptr, ptr %dtype.at
  %made = call ptr @bessemer_python_output(ptr %objects, ptr %words, ptr %dtype, ptr %row)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %undo, label %keep
keep:
  %data.from = getelementptr %bessemer.array, ptr %made, $array_data
  %data.here = load ptr, ptr %data.from
  %data.at = getelementptr ptr, ptr %data, i64 %i
  store ptr %data.here, ptr %data.at
  %ignored = call i32 %put(ptr %list, i64 %i, ptr %made)
  %i.next = add i64 %i, 1
  %rank.at = getelementptr i64, ptr %row, i64 1
  %rank = load i64, ptr %rank.at
  %words.used = add i64 %rank, 2
  %row.next = getelementptr i64, ptr %row, i64 %words.used
  br label %next
undo:
  call void %drop(ptr %list)
  br label %done
done:
  %result = phi ptr [ null, %entry ], [ %list, %next ], [ null, %undo ]
  ret ptr %result
}
"""

# Runs in an idle context; other Python threads go on meanwhile. The outputs, or null with Python's
# error set; *busy becomes 1 where no context was idle.
_CALL = """
define internal ptr @bessemer_python_call(
  ptr %objects, ptr %words, ptr %inputs, ptr %outputs, ptr %dims, ptr %results, ptr %busy
) $baseline {
entry:
  %arguments = alloca [2 x ptr]
  %idle.at = getelementptr %bessemer.objects, ptr %objects, $objects_idle
  %failed.at = getelementptr %bessemer.objects, ptr %objects, $objects_failed
  %size.at = getelementptr %bessemer.words, ptr %words, $words_PyList_Size
  %item.at = getelementptr %bessemer.words, ptr %words, $words_PyList_GetItem
  %cut.at = getelementptr %bessemer.words, ptr %words, $words_PyList_SetSlice
  %append.at = getelementptr %bessemer.words, ptr %words, $words_PyList_Append
  %number.at = getelementptr %bessemer.words, ptr %words, $words_PyLong_AsVoidPtr
  %integer.at = getelementptr %bessemer.words, ptr %words, $words_PyLong_FromLong
  %forget.at = getelementptr %bessemer.words, ptr %words, $words_PyErr_Clear
  %ask.at = getelementptr %bessemer.words, ptr %words, $words_PyObject_Vectorcall
  %leave.at = getelementptr %bessemer.words, ptr %words, $words_PyEval_SaveThread
  %return.at = getelementptr %bessemer.words, ptr %words, $words_PyEval_RestoreThread
  %own.at = getelementptr %bessemer.words, ptr %words, $words_Py_IncRef
  %drop.at = getelementptr %bessemer.words, ptr %words, $words_Py_DecRef
  %idle = load ptr, ptr %idle.at
  %size = load ptr, ptr %size.at
  %own = load ptr, ptr %own.at
  %drop = load ptr, ptr %drop.at
  %waiting = call i64 %size(ptr %idle)
  %none = icmp sle i64 %waiting, 0
  br i1 %none, label %all_busy, label %take
all_busy:
  store i8 1, ptr %busy
  ret ptr null
take:
  %item = load ptr, ptr %item.at
  %cut = load ptr, ptr %cut.at
  %number = load ptr, ptr %number.at
  %last = sub i64 %waiting, 1
  %handle = call ptr %item(ptr %idle, i64 %last)
  call void %own(ptr %handle)
  %ignored = call i32 %cut(ptr %idle, i64 %last, i64 %waiting, ptr null)
  %context = call ptr %number(ptr %handle)
  %leave = load ptr, ptr %leave.at
  %return = load ptr, ptr %return.at
  %thread = call ptr %leave()
  %status = call i32 @${prefix}_run(
    ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr null, i64 0
  )
  call void %return(ptr %thread)
  %fine = icmp eq i32 %status, 0
  br i1 %fine, label %give_back, label %fail
fail:
  call void %drop(ptr %results)
  %failed = load ptr, ptr %failed.at
  %integer = load ptr, ptr %integer.at
  %ask = load ptr, ptr %ask.at
  %status.wide = sext i32 %status to i64
  %code = call ptr %integer(i64 %status.wide)
  %code.at = getelementptr ptr, ptr %arguments, i64 1
  store ptr %handle, ptr %arguments
  store ptr %code, ptr %code.at
  %raised = call ptr %ask(ptr %failed, ptr %arguments, i64 2, ptr null)
  call void %drop(ptr %code)
  br label %give_back
give_back:
  %result = phi ptr [ %results, %take ], [ %raised, %fail ]
  %append = load ptr, ptr %append.at
  %lost = call i32 %append(ptr %idle, ptr %handle)
  %kept = icmp eq i32 %lost, 0
  br i1 %kept, label %done, label %forget
forget:
  ; Without memory for the list, the context stays unused until the model goes.
  %forget.function = load ptr, ptr %forget.at
  call void %forget.function()
  br label %done
done:
  call void %drop(ptr %handle)
  ret ptr %result
}
"""

_ENTRY = """
define ptr @${prefix}_python_$version(
  ptr %self, ptr %arguments, i64 %count, ptr %keywords
) $baseline {
entry:
  %values = alloca [$most x ptr]
  %inputs = alloca [$most x ptr]
  %outputs = alloca [$most x ptr]
  %dims = alloca [$most x i64]
  %busy = alloca i8
  store i8 0, ptr %busy
  %objects.at = getelementptr %bessemer.array, ptr %self, $array_data
  %objects = load ptr, ptr %objects.at
  %holder.at = getelementptr %bessemer.objects, ptr %objects, $objects_words
  %holder = load ptr, ptr %holder.at
  %words.at = getelementptr %bessemer.array, ptr %holder, $array_data
  %words = load ptr, ptr %words.at
  %generation = load i64, ptr %words
  %drop.at = getelementptr %bessemer.words, ptr %words, $words_Py_DecRef
  %drop = load ptr, ptr %drop.at
  %planned = icmp ne i64 %generation, 0
  %alone = icmp eq i64 %count, 1
  %unnamed = icmp eq ptr %keywords, null
  %simple = and i1 %alone, %unnamed
  %ready = and i1 %simple, %planned
  br i1 %ready, label %look, label %explain
look:
  %given = load ptr, ptr %arguments
  %fits = call i1 @bessemer_python_inputs(
    ptr %objects, ptr %words, ptr %given, ptr %values, ptr %inputs
  )
  br i1 %fits, label %prepare, label %explain
prepare:
  %taken.at = getelementptr %bessemer.words, ptr %words, $words_input_count
  %taken = load i64, ptr %taken.at
  %symbols.at = getelementptr %bessemer.words, ptr %words, $words_symbols
  %symbol_count.at = getelementptr %bessemer.words, ptr %words, $words_symbol_count
  %symbols = load i64, ptr %symbols.at
  %symbol_count = load i64, ptr %symbol_count.at
  %symbols.bytes = shl i64 %symbol_count, 3
  %symbols.from = getelementptr i64, ptr %words, i64 %symbols
  call void @llvm.memcpy.p0.p0.i64(ptr %dims, ptr %symbols.from, i64 %symbols.bytes, i1 false)
  %results = call ptr @bessemer_python_outputs(ptr %objects, ptr %words, ptr %outputs)
  %no_memory = icmp eq ptr %results, null
  br i1 %no_memory, label %release, label %compare
compare:
  %generation.now = load i64, ptr %words
  %unchanged = icmp eq i64 %generation, %generation.now
  br i1 %unchanged, label %run, label %undo
run:
  %found = call ptr @bessemer_python_call(
    ptr %objects, ptr %words, ptr %inputs, ptr %outputs, ptr %dims, ptr %results, ptr %busy
  )
  %was_busy = load i8, ptr %busy
  %ran = icmp eq i8 %was_busy, 0
  br i1 %ran, label %release, label %undo
release:
  %answer = phi ptr [ null, %prepare ], [ %found, %run ]
  call void @bessemer_python_release(ptr %words, ptr %values, i64 %taken)
  ret ptr %answer
undo:
  call void %drop(ptr %results)
  call void @bessemer_python_release(ptr %words, ptr %values, i64 %taken)
  br label %explain
explain:
  %fallback.at = getelementptr %bessemer.objects, ptr %objects, $objects_fallback
  %fallback = load ptr, ptr %fallback.at
  %ask.at = getelementptr %bessemer.words, ptr %words, $words_PyObject_Vectorcall
  %ask = load ptr, ptr %ask.at
  %asked = call ptr %ask(ptr %fallback, ptr %arguments, i64 %count, ptr %keywords)
  ret ptr %asked
}
"""

LAYOUTS = (ARRAY, TABLE, LIST)
NAME = f"python_{VERSION}"
NAMES: dict[str, str | int] = {"version": VERSION, "most": MOST_ARRAYS}
TEXT = _RELEASE + _FITS + _INPUTS + _OUTPUT + _CALL + _ENTRY

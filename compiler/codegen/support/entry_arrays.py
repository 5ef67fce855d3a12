"""Writes the part of the entry for CPython that checks the caller's arrays and makes output arrays,
as LLVM IR.

    i1 bessemer_python_arrays(ptr objects, ptr words, ptr given, i64 count, ptr names, ptr dtypes,
                              ptr rows, i32 flags, ptr values, ptr data, ptr ends)
    ptr bessemer_python_outputs(ptr objects, ptr words, ptr data, ptr room)
    void bessemer_python_release(ptr words, ptr values, i64 count)

entry.py defines the structs and calls these functions; entry_blocks.py has the memory of large
outputs, entry_given.py outputs in the caller's arrays.
"""

from __future__ import annotations

# Gives the first `count` arrays back.
_RELEASE = """
define hidden void @bessemer_python_release(ptr %words, ptr %values, i64 %count) $baseline {
entry:
  %drop = field words.Py_DecRef, %words
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

# Whether a value is an array as planned, with these flags; `row` is its bytes, rank and shape.
_FITS = """
define hidden i1 @bessemer_python_fits(
  ptr %value, ptr %kind, ptr %dtype, ptr %row, i32 %wanted_flags
) $baseline {
entry:
  %type = field array.type, %value
  %is_array = icmp eq ptr %type, %kind
  br i1 %is_array, label %look, label %no
look:
  %rank = field array.rank, %value
  %shape = field array.shape, %value
  %dtype.found = field array.dtype, %value
  %flags = field array.flags, %value
  %wide = sext i32 %rank to i64
  %planned.at = getelementptr i64, ptr %row, i64 1
  %planned = load i64, ptr %planned.at
  %planned.shape = getelementptr i64, ptr %row, i64 2
  %same_rank = icmp eq i64 %wide, %planned
  ; Arrays that come out of a pickle, from another process, have a dtype object of their own.
  %wanted_kind = field dtype.kind, %dtype
  %found_kind = field dtype.kind, %dtype.found
  %difference = xor i64 %wanted_kind, %found_kind
  ; all but the byte of flags
  %told = and i64 %difference, -4278190081
  %same_dtype = icmp eq i64 %told, 0
  %kept = and i32 %flags, %wanted_flags
  %straight = icmp eq i32 %kept, %wanted_flags
  %same_kind = and i1 %same_rank, %same_dtype
  ; negative where the data decides
  %bytes = load i64, ptr %row
  %is_known = icmp sge i64 %bytes, 0
  %usable = and i1 %straight, %is_known
  %fine = and i1 %same_kind, %usable
  br i1 %fine, label %next, label %no
next:
  %axis = phi i64 [ 0, %look ], [ %following, %compare ]
  %more = icmp slt i64 %axis, %planned
  br i1 %more, label %compare, label %yes
compare:
  %following = add i64 %axis, 1
  %size.at = getelementptr i64, ptr %shape, i64 %axis
  %size = load i64, ptr %size.at
  %wanted.at = getelementptr i64, ptr %planned.shape, i64 %axis
  %wanted = load i64, ptr %wanted.at
  %equal = icmp eq i64 %size, %wanted
  br i1 %equal, label %next, label %no
yes:
  ret i1 true
no:
  ret i1 false
}
"""

# Finds arrays in a dict, list or tuple, owns them and notes where their data begins and ends. Owns
# nothing where they are not as the plan's `rows` say.
_ARRAYS = """
define hidden i1 @bessemer_python_arrays(
  ptr %objects, ptr %words, ptr %given, i64 %count, ptr %names, ptr %dtypes, ptr %rows, i32 %flags,
  ptr %values, ptr %data, ptr %ends
) $baseline {
entry:
  %dict = field objects.dict, %objects
  %list = field objects.list, %objects
  %tuple = field objects.tuple, %objects
  %array = field objects.array, %objects
  %own = field words.Py_IncRef, %words
  %forget = field words.PyErr_Clear, %words
  %look_up = field words.PyDict_GetItemWithError, %words
  %type = field array.type, %given
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
  %row = phi ptr [ %rows, %measure ], [ %row.next, %good ]
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
  %fits = call i1 @bessemer_python_fits(
    ptr %value, ptr %array, ptr %dtype, ptr %row, i32 %flags
  )
  br i1 %fits, label %good, label %undo
good:
  %data.here = field array.data, %value
  %data.at = getelementptr ptr, ptr %data, i64 %i
  store ptr %data.here, ptr %data.at
  %bytes = load i64, ptr %row
  %end = getelementptr i8, ptr %data.here, i64 %bytes
  %end.at = getelementptr ptr, ptr %ends, i64 %i
  store ptr %end, ptr %end.at
  %rank.at = getelementptr i64, ptr %row, i64 1
  %rank = load i64, ptr %rank.at
  %words.used = add i64 %rank, 2
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

# A new array; `row` is its bytes, rank and shape. Null with Python's error set where there is no
# memory.
_OUTPUT = """
define hidden ptr @bessemer_python_output(
  ptr %objects, ptr %words, ptr %dtype, ptr %row
) $baseline {
entry:
  %array = field objects.array, %objects
  %make = field words.PyArray_NewFromDescr, %words
  %own = field words.Py_IncRef, %words
  %bytes = load i64, ptr %row
  %rank.at = getelementptr i64, ptr %row, i64 1
  %shape = getelementptr i64, ptr %row, i64 2
  %rank.wide = load i64, ptr %rank.at
  %rank = trunc i64 %rank.wide to i32
  %plain = icmp slt i64 %bytes, $large
  br i1 %plain, label %direct, label %memory
direct:
  ; NewFromDescr takes the reference to the dtype.
  call void %own(ptr %dtype)
  %made = call ptr %make(
    ptr %array, ptr %dtype, i32 %rank, ptr %shape, ptr null, ptr null, i32 0, ptr null
  )
  ret ptr %made
memory:
  %with_line = add i64 %bytes, 64
  %block = call ptr @bessemer_python_block(ptr %objects, ptr %words, i64 %with_line)
  %none = icmp eq ptr %block, null
  br i1 %none, label %fail, label %view
view:
  %found = call ptr @bessemer_python_view(
    ptr %objects, ptr %words, ptr %dtype, ptr %row, ptr %block
  )
  ret ptr %found
fail:
  ret ptr null
}

; The list of all outputs, whose data is noted; or null. Where the data decides an output's size
; (the first word of its row is negative), there stands in the list until the run has ended a block,
; whose bytes are noted as its room, or where the run before does not say how large, its dtype.
define hidden ptr @bessemer_python_outputs(
  ptr %objects, ptr %words, ptr %data, ptr %room
) $baseline {
entry:
  %expected.holder = field objects.rooms, %objects
  %expected = field array.data, %expected.holder
  %own = field words.Py_IncRef, %words
  %inputs = field words.input_count, %words
  %count = field words.output_count, %words
  %shapes = field words.shapes, %words
  %make = field words.PyList_New, %words
  %put = field words.PyList_SetItem, %words
  %drop = field words.Py_DecRef, %words
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
  %kind = load i64, ptr %row
  %is_dependent = icmp slt i64 %kind, 0
  br i1 %is_dependent, label %dependent, label %early
dependent:
  %expected.at = getelementptr i64, ptr %expected, i64 %i
  %bytes = load i64, ptr %expected.at
  %room.at = getelementptr i64, ptr %room, i64 %i
  store i64 %bytes, ptr %room.at
  %unknown = icmp eq i64 %bytes, 0
  br i1 %unknown, label %hold, label %expect
hold:
  call void %own(ptr %dtype)
  br label %keep
expect:
  %with_line = add i64 %bytes, 64
  %block = call ptr @bessemer_python_block(ptr %objects, ptr %words, i64 %with_line)
  %lacking = icmp eq ptr %block, null
  br i1 %lacking, label %undo, label %begin
begin:
  %start = call ptr @bessemer_python_start(ptr %block)
  br label %keep
early:
  %made = call ptr @bessemer_python_output(ptr %objects, ptr %words, ptr %dtype, ptr %row)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %undo, label %note
note:
  %data.here = field array.data, %made
  br label %keep
keep:
  %item = phi ptr [ %dtype, %hold ], [ %block, %begin ], [ %made, %note ]
  %data.found = phi ptr [ null, %hold ], [ %start, %begin ], [ %data.here, %note ]
  %data.at = getelementptr ptr, ptr %data, i64 %i
  store ptr %data.found, ptr %data.at
  %ignored = call i32 %put(ptr %list, i64 %i, ptr %item)
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

TEXT = _RELEASE + _FITS + _ARRAYS + _OUTPUT

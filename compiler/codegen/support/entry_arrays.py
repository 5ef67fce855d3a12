"""What Python's entry to a model takes and makes, as LLVM IR: the inputs' and the outputs' arrays.

    i1 bessemer_python_inputs(ptr objects, ptr words, ptr given, ptr values, ptr data)
    ptr bessemer_python_outputs(ptr objects, ptr words, ptr data)
    ptr bessemer_python_block(ptr objects, ptr words, i64 bytes)
    void bessemer_python_release(ptr words, ptr values, i64 count)

entry.py has the structs, and calls these.
"""

from __future__ import annotations

# Gives the first `count` inputs back.
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

# Whether an input is an array as planned; `row` is its rank and shape.
_FITS = """
define hidden i1 @bessemer_python_fits(ptr %value, ptr %kind, ptr %dtype, ptr %row) $baseline {
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
  %planned = load i64, ptr %row
  %same_rank = icmp eq i64 %wide, %planned
  ; Arrays that come out of a pickle, from another process, have a dtype object of their own.
  %wanted_kind = field dtype.kind, %dtype
  %found_kind = field dtype.kind, %dtype.found
  %difference = xor i64 %wanted_kind, %found_kind
  ; all but the byte of flags
  %told = and i64 %difference, -4278190081
  %same_dtype = icmp eq i64 %told, 0
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
define hidden i1 @bessemer_python_inputs(
  ptr %objects, ptr %words, ptr %given, ptr %values, ptr %data
) $baseline {
entry:
  %dict = field objects.dict, %objects
  %list = field objects.list, %objects
  %tuple = field objects.tuple, %objects
  %array = field objects.array, %objects
  %count = field words.input_count, %words
  %own = field words.Py_IncRef, %words
  %forget = field words.PyErr_Clear, %words
  %look_up = field words.PyDict_GetItemWithError, %words
  %names = getelementptr %bessemer.objects, ptr %objects, i64 1
  %dtypes = getelementptr ptr, ptr %names, i64 %count
  %plan = getelementptr %bessemer.words, ptr %words, i64 1
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
  %data.here = field array.data, %value
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

# A block of bytes to put an output in, from an OutputPool (runtime/output_pool.py), to which it is
# added if it is a new one; or null with Python's error set. No Python code runs between the look at
# how many references there are to a block (in 32 bits) and the new one.
_BLOCK = """
declare i64 @llvm.ctlz.i64(i64, i1)
declare i64 @llvm.umax.i64(i64, i64)

define hidden ptr @bessemer_python_block(ptr %objects, ptr %words, i64 %bytes) $baseline {
entry:
  %length = alloca i64
  %blocks = field objects.blocks, %objects
  %measure = field words.PyList_Size, %words
  %item = field words.PyList_GetItem, %words
  %own = field words.Py_IncRef, %words
  %count = call i64 %measure(ptr %blocks)
  %twice = shl i64 %bytes, 1
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %look ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %new
look:
  %block = call ptr %item(ptr %blocks, i64 %i)
  %references = field array.references, %block
  %holders = trunc i64 %references to i32
  %shape = field array.shape, %block
  %size = load i64, ptr %shape
  %unused = icmp eq i32 %holders, 1
  %large = icmp sge i64 %size, %bytes
  %near = icmp sle i64 %size, %twice
  %enough = and i1 %large, %near
  %good = and i1 %unused, %enough
  %i.next = add i64 %i, 1
  br i1 %good, label %take, label %next
take:
  call void %own(ptr %block)
  ret ptr %block
new:
  ; at most an eighth more, as _rounded in runtime/output_pool.py
  %zeros = call i64 @llvm.ctlz.i64(i64 %bytes, i1 false)
  %finest = sub i64 60, %zeros
  %power = call i64 @llvm.umax.i64(i64 %finest, i64 12)
  %step = shl i64 1, %power
  %up = add i64 %bytes, %step
  %beyond = sub i64 %up, 1
  %mask = sub i64 0, %step
  %rounded = and i64 %beyond, %mask
  store i64 %rounded, ptr %length
  %array = field objects.array, %objects
  %kind = field objects.memory, %objects
  %make = field words.PyArray_NewFromDescr, %words
  call void %own(ptr %kind)
  %made = call ptr %make(
    ptr %array, ptr %kind, i32 1, ptr %length, ptr null, ptr null, i32 0, ptr null
  )
  %none = icmp eq ptr %made, null
  br i1 %none, label %done, label %keep
keep:
  %append = field words.PyList_Append, %words
  %lost = call i32 %append(ptr %blocks, ptr %made)
  %kept = icmp eq i32 %lost, 0
  br i1 %kept, label %compare, label %forget
forget:
  %clear = field words.PyErr_Clear, %words
  call void %clear()
  br label %done
compare:
  ; as many as OutputPool keeps
  %outputs = field words.output_count, %words
  %pairs = shl i64 %outputs, 1
  %most = add i64 %pairs, 1
  %now = call i64 %measure(ptr %blocks)
  %full = icmp sgt i64 %now, %most
  br i1 %full, label %cut, label %done
cut:
  %slice = field words.PyList_SetSlice, %words
  %ignored = call i32 %slice(ptr %blocks, i64 0, i64 1, ptr null)
  br label %done
done:
  ret ptr %made
}
"""

# A new array; `row` is the bytes to allocate for one that begins at a cache line, or 0, then rank
# and shape. Null with Python's error set where there is no memory.
_OUTPUT = """
define hidden ptr @bessemer_python_output(
  ptr %objects, ptr %words, ptr %dtype, ptr %row
) $baseline {
entry:
  %array = field objects.array, %objects
  %make = field words.PyArray_NewFromDescr, %words
  %keep = field words.PyArray_SetBaseObject, %words
  %own = field words.Py_IncRef, %words
  %drop = field words.Py_DecRef, %words
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
  %block = call ptr @bessemer_python_block(ptr %objects, ptr %words, i64 %padded)
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

; The list of all outputs, whose data is noted; or null. Where the data decides an output's size
; (the first word of its row is negative), its dtype stands in the list until the run has ended.
define hidden ptr @bessemer_python_outputs(ptr %objects, ptr %words, ptr %data) $baseline {
entry:
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
  %is_late = icmp slt i64 %kind, 0
  br i1 %is_late, label %late, label %early
late:
  call void %own(ptr %dtype)
  br label %keep
early:
  %made = call ptr @bessemer_python_output(ptr %objects, ptr %words, ptr %dtype, ptr %row)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %undo, label %note
note:
  %data.here = field array.data, %made
  br label %keep
keep:
  %item = phi ptr [ %dtype, %late ], [ %made, %note ]
  %data.found = phi ptr [ null, %late ], [ %data.here, %note ]
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

TEXT = _RELEASE + _FITS + _INPUTS + _BLOCK + _OUTPUT

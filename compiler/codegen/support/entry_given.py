"""Writes the part of the entry for CPython that takes the caller's arrays for outputs, as LLVM IR.

    ptr bessemer_python_out(ptr objects, ptr words, ptr arguments, i64 count, ptr keywords,
                            ptr declined)
    ptr bessemer_python_given(ptr objects, ptr words, ptr out, ptr inputs, ptr ends, ptr data,
                              ptr declined)

entry.py defines the structs and calls these functions. What they do not expect, they decline:
another number of arguments, arrays that do not fit or that overlap, a None among them, outputs
whose size the data decides.
"""

from __future__ import annotations

# The argument `out`, second or by name; null where it is missing or None.
_OUT = """
define hidden ptr @bessemer_python_out(
  ptr %objects, ptr %words, ptr %arguments, i64 %count, ptr %keywords, ptr %declined
) $baseline {
entry:
  %unnamed = icmp eq ptr %keywords, null
  br i1 %unnamed, label %in_order, label %by_name
in_order:
  switch i64 %count, label %other [
    i64 1, label %missing
    i64 2, label %second
  ]
by_name:
  %alone = icmp eq i64 %count, 1
  br i1 %alone, label %measure, label %other
measure:
  %size = field words.PyTuple_Size, %words
  %item = field words.PyTuple_GetItem, %words
  %names = call i64 %size(ptr %keywords)
  %one = icmp eq i64 %names, 1
  br i1 %one, label %compare, label %other
compare:
  %name = call ptr %item(ptr %keywords, i64 0)
  %wanted = field objects.out, %objects
  %same = icmp eq ptr %name, %wanted
  br i1 %same, label %second, label %other
second:
  %out.at = getelementptr ptr, ptr %arguments, i64 1
  %out = load ptr, ptr %out.at
  %none = field objects.none, %objects
  %is_none = icmp eq ptr %out, %none
  %found = select i1 %is_none, ptr null, ptr %out
  ret ptr %found
other:
  store i8 1, ptr %declined
  br label %missing
missing:
  ret ptr null
}
"""

# Whether no output shares memory with an input or with another output: `data` and `ends` are where
# their memory begins and ends.
_APART = """
define hidden i1 @bessemer_python_apart(
  ptr %data, ptr %ends, i64 %count, ptr %begin, ptr %end
) $baseline {
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %one ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %yes
one:
  %data.at = getelementptr ptr, ptr %data, i64 %i
  %ends.at = getelementptr ptr, ptr %ends, i64 %i
  %other.begin = load ptr, ptr %data.at
  %other.end = load ptr, ptr %ends.at
  %before = icmp ule ptr %end, %other.begin
  %behind = icmp ule ptr %other.end, %begin
  %apart = or i1 %before, %behind
  %i.next = add i64 %i, 1
  br i1 %apart, label %next, label %no
yes:
  ret i1 true
no:
  ret i1 false
}
"""

# The list of the caller's arrays, whose data is noted; or null, with Python's error set if there is
# no memory, else declined.
_GIVEN = """
define hidden ptr @bessemer_python_given(
  ptr %objects, ptr %words, ptr %out, ptr %inputs, ptr %inputs.end, ptr %data, ptr %declined
) $baseline {
entry:
  %values = alloca [$most x ptr]
  %ends = alloca [$most x ptr]
  %array = field objects.array, %objects
  %make = field words.PyList_New, %words
  %put = field words.PyList_SetItem, %words
  %own = field words.Py_IncRef, %words
  %input_count = field words.input_count, %words
  %count = field words.output_count, %words
  %shapes = field words.shapes, %words
  %begin = getelementptr %bessemer.objects, ptr %objects, i64 1
  %skipped = shl i64 %input_count, 1
  %dtypes = getelementptr ptr, ptr %begin, i64 %skipped
  %names = getelementptr ptr, ptr %dtypes, i64 %count
  %rows = getelementptr i64, ptr %words, i64 %shapes
  %type = field array.type, %out
  %is_array = icmp eq ptr %type, %array
  br i1 %is_array, label %bare, label %several
bare:
  %only = icmp eq i64 %count, 1
  br i1 %only, label %check, label %decline
check:
  ; 1281: C-contiguous, aligned, writeable
  %dtype = load ptr, ptr %dtypes
  %one_fits = call i1 @bessemer_python_fits(
    ptr %out, ptr %array, ptr %dtype, ptr %rows, i32 1281
  )
  br i1 %one_fits, label %note, label %decline
note:
  call void %own(ptr %out)
  store ptr %out, ptr %values
  %start = field array.data, %out
  store ptr %start, ptr %data
  %bytes = load i64, ptr %rows
  %stop = getelementptr i8, ptr %start, i64 %bytes
  store ptr %stop, ptr %ends
  br label %next
several:
  %fit = call i1 @bessemer_python_arrays(
    ptr %objects, ptr %words, ptr %out, i64 %count, ptr %names, ptr %dtypes, ptr %rows, i32 1281,
    ptr %values, ptr %data, ptr %ends
  )
  br i1 %fit, label %next, label %decline
next:
  %i = phi i64 [ 0, %several ], [ 0, %note ], [ %i.next, %among ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %collect
one:
  %begin.at = getelementptr ptr, ptr %data, i64 %i
  %end.at = getelementptr ptr, ptr %ends, i64 %i
  %here = load ptr, ptr %begin.at
  %end = load ptr, ptr %end.at
  %from_inputs = call i1 @bessemer_python_apart(
    ptr %inputs, ptr %inputs.end, i64 %input_count, ptr %here, ptr %end
  )
  br i1 %from_inputs, label %among, label %overlap
among:
  %from_outputs = call i1 @bessemer_python_apart(
    ptr %data, ptr %ends, i64 %i, ptr %here, ptr %end
  )
  %i.next = add i64 %i, 1
  br i1 %from_outputs, label %next, label %overlap
collect:
  %list = call ptr %make(i64 %count)
  %none = icmp eq ptr %list, null
  br i1 %none, label %release, label %fill
fill:
  %k = phi i64 [ 0, %collect ], [ %k.next, %give ]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %give, label %done
give:
  ; the list takes the references
  %value.at = getelementptr ptr, ptr %values, i64 %k
  %value = load ptr, ptr %value.at
  %ignored = call i32 %put(ptr %list, i64 %k, ptr %value)
  %k.next = add i64 %k, 1
  br label %fill
done:
  ret ptr %list
overlap:
  store i8 1, ptr %declined
  br label %release
release:
  call void @bessemer_python_release(ptr %words, ptr %values, i64 %count)
  ret ptr null
decline:
  store i8 1, ptr %declined
  ret ptr null
}
"""

TEXT = _OUT + _APART + _GIVEN

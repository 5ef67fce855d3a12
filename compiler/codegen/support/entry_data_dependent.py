"""Writes the part of the entry for CPython that returns outputs of data-dependent size, as LLVM IR.

    i1 bessemer_python_data_dependent(ptr objects, ptr words, ptr data, ptr dims, ptr room,
                                      ptr list)

stores arrays to the list. If the run has written an output to the block that the list holds for it,
the array is a view of that block; else it is a copy of what the run has left in the arena. Returns
false with Python's error set if there is no memory. The description of such an output
(`data_dependent_row` in runtime/entry.py) never changes, so another thread's plan may be installed
in the meantime.

The next run gets an eighth more bytes than this one needed, for outputs that grow from run to run.
If a block has more than twice the bytes that are used, they are copied and the block is freed.
"""

from __future__ import annotations

TEXT = """
define hidden i1 @bessemer_python_data_dependent(
  ptr %objects, ptr %words, ptr %data, ptr %dims, ptr %room, ptr %list
) $baseline {
entry:
  ; a row of an output whose shape is known: NumPy's arrays may have 64 axes
  %known = alloca [66 x i64]
  %known.rank = getelementptr i64, ptr %known, i64 1
  %sizes = getelementptr i64, ptr %known, i64 2
  %inputs = field words.input_count, %words
  %count = field words.output_count, %words
  %shapes = field words.shapes, %words
  %put = field words.PyList_SetItem, %words
  %item = field words.PyList_GetItem, %words
  %own = field words.Py_IncRef, %words
  %expected.holder = field objects.rooms, %objects
  %expected = field array.data, %expected.holder
  %names = getelementptr %bessemer.objects, ptr %objects, i64 1
  %skipped = shl i64 %inputs, 1
  %dtypes = getelementptr ptr, ptr %names, i64 %skipped
  %first = getelementptr i64, ptr %words, i64 %shapes
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %skip ]
  %row = phi ptr [ %first, %entry ], [ %row.next, %skip ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %yes
one:
  %kind = load i64, ptr %row
  %rank.at = getelementptr i64, ptr %row, i64 1
  %rank = load i64, ptr %rank.at
  %codes = getelementptr i64, ptr %row, i64 2
  %is_dependent = icmp slt i64 %kind, 0
  br i1 %is_dependent, label %dependent, label %skip
dependent:
  %element = sub i64 0, %kind
  br label %axis
axis:
  %a = phi i64 [ 0, %dependent ], [ %a.next, %sized ]
  %bytes = phi i64 [ %element, %dependent ], [ %bytes.next, %sized ]
  %inside = icmp slt i64 %a, %rank
  br i1 %inside, label %size, label %array_of
size:
  %code.at = getelementptr i64, ptr %codes, i64 %a
  %code = load i64, ptr %code.at
  %is_symbol = icmp slt i64 %code, 0
  br i1 %is_symbol, label %symbol, label %sized
symbol:
  %index = xor i64 %code, -1
  %dim.at = getelementptr i64, ptr %dims, i64 %index
  %dim = load i64, ptr %dim.at
  br label %sized
sized:
  %length = phi i64 [ %code, %size ], [ %dim, %symbol ]
  %size.at = getelementptr i64, ptr %sizes, i64 %a
  store i64 %length, ptr %size.at
  %bytes.next = mul i64 %bytes, %length
  %a.next = add i64 %a, 1
  br label %axis
array_of:
  %dtype.at = getelementptr ptr, ptr %dtypes, i64 %i
  %dtype = load ptr, ptr %dtype.at
  %is_large = icmp sge i64 %bytes, $large
  store i64 %bytes, ptr %known
  store i64 %rank, ptr %known.rank
  %eighth = lshr i64 %bytes, 3
  %grown = add i64 %bytes, %eighth
  %next_room = select i1 %is_large, i64 %grown, i64 0
  %expected.at = getelementptr i64, ptr %expected, i64 %i
  store i64 %next_room, ptr %expected.at
  %from.at = getelementptr ptr, ptr %data, i64 %i
  %from = load ptr, ptr %from.at
  %room.at = getelementptr i64, ptr %room, i64 %i
  %room.bytes = load i64, ptr %room.at
  %twice = shl i64 %bytes, 1
  %any = icmp sgt i64 %room.bytes, 0
  %near = icmp sle i64 %room.bytes, %twice
  %worth = and i1 %any, %near
  br i1 %worth, label %whose, label %copied
whose:
  %block = call ptr %item(ptr %list, i64 %i)
  %start = call ptr @bessemer_python_start(ptr %block)
  %in_block = icmp eq ptr %start, %from
  br i1 %in_block, label %direct, label %copied
direct:
  call void %own(ptr %block)
  %view = call ptr @bessemer_python_view(
    ptr %objects, ptr %words, ptr %dtype, ptr %known, ptr %block
  )
  %loose = icmp eq ptr %view, null
  br i1 %loose, label %no, label %place
copied:
  %made = call ptr @bessemer_python_output(ptr %objects, ptr %words, ptr %dtype, ptr %known)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %no, label %fill
fill:
  %to = field array.data, %made
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %bytes, i1 false)
  br label %place
place:
  %array = phi ptr [ %view, %direct ], [ %made, %fill ]
  %ignored = call i32 %put(ptr %list, i64 %i, ptr %array)
  br label %skip
skip:
  %words.used = add i64 %rank, 2
  %row.next = getelementptr i64, ptr %row, i64 %words.used
  %i.next = add i64 %i, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}
"""

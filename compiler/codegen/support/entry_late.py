"""The outputs of Python's entry to a model whose size the data decides, as LLVM IR.

    i1 bessemer_python_late(ptr objects, ptr words, ptr data, ptr dims, ptr list)

puts copies of what the run has placed in the arena into the list; false with Python's error set
where there is no memory. A row of such an output (`late_row` in runtime/entry.py) never changes,
so that another thread's plan may come in the meantime.
"""

from __future__ import annotations

TEXT = """
define hidden i1 @bessemer_python_late(
  ptr %objects, ptr %words, ptr %data, ptr %dims, ptr %list
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
  %is_late = icmp slt i64 %kind, 0
  br i1 %is_late, label %late, label %skip
late:
  %element = sub i64 0, %kind
  br label %axis
axis:
  %a = phi i64 [ 0, %late ], [ %a.next, %sized ]
  %bytes = phi i64 [ %element, %late ], [ %bytes.next, %sized ]
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
  %with_line = add i64 %bytes, 64
  %padded = select i1 %is_large, i64 %with_line, i64 0
  store i64 %padded, ptr %known
  store i64 %rank, ptr %known.rank
  %made = call ptr @bessemer_python_output(ptr %objects, ptr %words, ptr %dtype, ptr %known)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %no, label %fill
fill:
  %from.at = getelementptr ptr, ptr %data, i64 %i
  %from = load ptr, ptr %from.at
  %to = field array.data, %made
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %bytes, i1 false)
  %ignored = call i32 %put(ptr %list, i64 %i, ptr %made)
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

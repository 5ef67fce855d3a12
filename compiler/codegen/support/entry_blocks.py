"""Writes the part of the entry for CPython that manages the memory of large outputs, as LLVM IR.

    ptr bessemer_python_block(ptr objects, ptr words, i64 bytes)
    ptr bessemer_python_start(ptr block)
    ptr bessemer_python_view(ptr objects, ptr words, ptr dtype, ptr row, ptr block)

entry.py defines the structs.
"""

from __future__ import annotations

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

# The first cache line of a block, and an array that begins there; `row` is its bytes, rank and
# shape. The array takes the reference to the block, or if there is none, with Python's error set,
# gives it up.
_VIEW = """
define hidden ptr @bessemer_python_start(ptr %block) $baseline {
entry:
  %begin.at = getelementptr %bessemer.array, ptr %block, $array_data
  %begin = load i64, ptr %begin.at
  %beyond = add i64 %begin, 63
  %aligned = and i64 %beyond, -64
  %start = inttoptr i64 %aligned to ptr
  ret ptr %start
}

define hidden ptr @bessemer_python_view(
  ptr %objects, ptr %words, ptr %dtype, ptr %row, ptr %block
) $baseline {
entry:
  %array = field objects.array, %objects
  %make = field words.PyArray_NewFromDescr, %words
  %keep = field words.PyArray_SetBaseObject, %words
  %own = field words.Py_IncRef, %words
  %drop = field words.Py_DecRef, %words
  %rank.at = getelementptr i64, ptr %row, i64 1
  %shape = getelementptr i64, ptr %row, i64 2
  %rank.wide = load i64, ptr %rank.at
  %rank = trunc i64 %rank.wide to i32
  %start = call ptr @bessemer_python_start(ptr %block)
  ; NewFromDescr takes the reference to the dtype.
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
"""

TEXT = _BLOCK + _VIEW

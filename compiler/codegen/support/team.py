"""Writes teams, as LLVM IR: a kernel whose shares run at the same time and wait for each other.

Only the context's own pool can promise that, since each of its workers has a thread. A caller's
parallel_for may run one task after another. And if there are fewer processors than threads (the
context then does not spin), each barrier would take a time slice. In these cases the kernel runs as
a team of one, with the same result.

Each member counts the barriers that it has reached in a cache line of its own, and reads the
others' counters. There it also adds up its long waits, which show that another process used a
member's processor. If they took so much of the kernel's time that one thread alone would have been
as fast, the next few kernels with teams run alone, and four times as many each time the first team
after them is disturbed again. On a busy machine that is fastest. On an otherwise idle machine,
where a time slice is lost only now and then, it costs hardly anything.
"""

from __future__ import annotations

MOST_MEMBERS = 16
"""As many members look at each other's counters; more would spend their time on it."""
CELL_BYTES = 64
LONG_WAIT = 100
"""Microseconds: less than a time slice of other programs, more than the shares of a step differ."""
FEWEST_ALONE, MOST_ALONE = 2, 64
"""Kernels that run alone before a team is tried again."""
SHARES = 1 << 32
"""More than any work: the members must run at the same time, so who sleeps is woken."""

# `cells` and `place` say where in the buffers the counters' address belongs, and where in the dims
# the number of members.
_TEAM = """
define hidden void @bessemer_join_team(
  ptr %context, ptr %kernel, ptr %buffers, ptr %dims, i64 %cells, i64 %place, i64 %most
) $baseline {
entry:
  %counters = alloca [$team_bytes x i8], align 64
  %cells.at = getelementptr ptr, ptr %buffers, i64 %cells
  %place.at = getelementptr i64, ptr %dims, i64 %place
  store ptr %counters, ptr %cells.at
  %threads = field options.threads, %context
  %spin = field options.spin, %context
  %callback = field options.parallel_for, %context
  %own = icmp eq ptr %callback, null
  %several = icmp sgt i32 %threads, 1
  %spins = icmp sgt i32 %spin, 0
  %useful = icmp sgt i64 %most, 1
  %possible = and i1 %own, %several
  %quick = and i1 %possible, %spins
  %wanted = and i1 %quick, %useful
  br i1 %wanted, label %find, label %alone
find:
  %pool = call ptr @bessemer_pool(ptr %context)
  %none = icmp eq ptr %pool, null
  br i1 %none, label %alone, label %consider
consider:
  %teamless.at = getelementptr %bessemer.pool, ptr %pool, $pool_teamless
  %teamless = load i64, ptr %teamless.at
  %crowded = icmp sgt i64 %teamless, 0
  br i1 %crowded, label %rest, label %count
rest:
  %fewer = sub i64 %teamless, 1
  store i64 %fewer, ptr %teamless.at
  br label %alone
count:
  %workers = field pool.workers, %pool
  %workers.wide = zext i32 %workers to i64
  %all = add i64 %workers.wide, 1
  %some = call i64 @llvm.umin.i64(i64 %all, i64 %most)
  %members = call i64 @llvm.umin.i64(i64 %some, i64 $team_members)
  store i64 %members, ptr %place.at
  call void @llvm.memset.p0.i64(ptr %counters, i8 0, i64 $team_bytes, i1 false)
  %begin = call i64 @bessemer_microseconds()
  call void @bessemer_parallel(
    ptr %context, ptr %kernel, ptr %buffers, ptr %dims, i64 %members, i64 $team_shares
  )
  br label %ask
ask:
  %member = phi i64 [ 0, %count ], [ %following, %ask ]
  %longest = phi i64 [ 0, %count ], [ %longer, %ask ]
  %offset = mul i64 %member, $team_cell
  %cell = getelementptr i8, ptr %counters, i64 %offset
  %wait.at = getelementptr i8, ptr %cell, i64 8
  %wait = load i64, ptr %wait.at
  %longer = call i64 @llvm.smax.i64(i64 %longest, i64 %wait)
  %following = add i64 %member, 1
  %left = icmp ult i64 %following, %members
  br i1 %left, label %ask, label %judge
judge:
  %end = call i64 @bessemer_microseconds()
  %whole = sub i64 %end, %begin
  %others = sub i64 %members, 1
  %lost = mul i64 %longer, %members
  %gained = mul i64 %whole, %others
  %disturbed = icmp sgt i64 %lost, %gained
  %caution.at = getelementptr %bessemer.pool, ptr %pool, $pool_caution
  %caution = load i64, ptr %caution.at
  br i1 %disturbed, label %retire, label %trust
retire:
  %more = shl i64 %caution, 2
  %some.more = call i64 @llvm.umax.i64(i64 %more, i64 $team_fewest_alone)
  %pause = call i64 @llvm.umin.i64(i64 %some.more, i64 $team_most_alone)
  store i64 %pause, ptr %teamless.at
  store i64 %pause, ptr %caution.at
  br label %done
trust:
  %less = lshr i64 %caution, 1
  store i64 %less, ptr %caution.at
  br label %done
done:
  ret void
alone:
  store i64 1, ptr %place.at
  call void %kernel(ptr %buffers, ptr %dims, i64 0, i64 1)
  ret void
}
"""

# At the first barrier it is for workers to wake up that one waits: that is not counted.
# A member reads its own counter without a race: nobody else writes it. Looking costs nothing while
# the line is in the first cache; after 1,000 looks (a microsecond) somebody else may need the
# processor.
_BARRIER = """
define hidden void @bessemer_barrier(ptr %counters, i64 %member, i64 %members) $baseline {
entry:
  %alone = icmp ule i64 %members, 1
  br i1 %alone, label %done, label %come
come:
  %own.offset = mul i64 %member, $team_cell
  %own.at = getelementptr i8, ptr %counters, i64 %own.offset
  %before = load i32, ptr %own.at
  %mine = add i32 %before, 1
  store atomic i32 %mine, ptr %own.at release, align 64
  br label %next
next:
  %other = phi i64 [ 0, %come ], [ %following, %advance ]
  %offset = mul i64 %other, $team_cell
  %at = getelementptr i8, ptr %counters, i64 %offset
  br label %look
look:
  %looks = phi i32 [ 0, %next ], [ %more, %wait ], [ %more, %yield ]
  %since = phi i64 [ 0, %next ], [ %since, %wait ], [ %begin, %yield ]
  %theirs = load atomic i32, ptr %at acquire, align 64
  %behind = sub i32 %theirs, %mine
  %late = icmp slt i32 %behind, 0
  br i1 %late, label %wait, label %there
wait:
  %more = add i32 %looks, 1
  %phase = and i32 %more, 1023
  %tired = icmp eq i32 %phase, 0
  br i1 %tired, label %yield, label %look
yield:
  %first = icmp eq i64 %since, 0
  %now = call i64 @bessemer_microseconds()
  %begin = select i1 %first, i64 %now, i64 %since
  %yielded = call i32 @sched_yield()
  br label %look
there:
  %waited = icmp ne i64 %since, 0
  %later = icmp ugt i32 %mine, 1
  %counts = and i1 %waited, %later
  br i1 %counts, label %record, label %advance
record:
  %wait.at = getelementptr i8, ptr %own.at, i64 8
  %end = call i64 @bessemer_microseconds()
  %this = sub i64 %end, %since
  %is.long = icmp sgt i64 %this, $team_wait
  br i1 %is.long, label %add, label %advance
add:
  %sum = load i64, ptr %wait.at
  %more.sum = add i64 %sum, %this
  store i64 %more.sum, ptr %wait.at
  br label %advance
advance:
  %following = add i64 %other, 1
  %left = icmp ult i64 %following, %members
  br i1 %left, label %next, label %done
done:
  ret void
}
"""

TEXT = _TEAM + _BARRIER

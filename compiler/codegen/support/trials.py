"""Tries out, while the model runs, how small a job may be for threads to share it, as LLVM IR.

If two cores share a cache, a microsecond's work is worth sharing. If they do not, each line that
one of them has read or written costs the other tens of nanoseconds, and whole networks of small
kernels run faster on one thread. A program cannot ask which of these is the case; on virtual
machines it changes within minutes. So of every few thousand runs some are timed: three with each of
the smallest jobs in `FEWEST`, of which the fastest is kept. These take turns, there and back, so
that a moment in which others use the processors meets all of them. The first wakes the workers:
small jobs do not, and would find them asleep in all of the trial. What disturbs a whole trial, such
as the spinning threads of another model, may leave small jobs on one thread; so while they are not
shared the next trial is nearer. (Networks of 0.35 to 1.6 ms whose trial met other programs took
twice as long for 128 to 512 runs more.) Long runs have large kernels, or many; they are not tried,
and share all jobs that are worth sharing nearly everywhere. Other sizes, or another graph, begin a
new trial, which is soon repeated. The results do not depend on any of this.

`tried` says what the pool's trial is about. `counter` counts its runs and those until the next
trial, of which there are `period` in all. `best` are nanoseconds.
"""

from __future__ import annotations

FEWEST = (2, 8, 64)
"""Smallest shares of the smallest job that is shared (see shares.py). Jobs of teams, which cannot
run alone, and those of 64 shares, some 30 microseconds on one thread, are shared in any case: a
trial beside another model's spinning thread left a GELU of 16 MiB on one thread, 0.42 ms by 0.26.
"""

RUNS = 3
FIRST_PERIOD, PERIOD = 128, 2048
"""Runs from the first trial to the second; each period is twice as long as the one before it, up to
the longest."""
ALONE_PERIOD, ALONE_TIME = 256, 20_000_000
"""While small jobs are not shared, the next trial is after so many nanoseconds, but not before so
many runs. Six of these share them: where that takes a third longer, they cost a hundredth of the
time."""
LONG = 8_000_000
"""Nanoseconds: longer runs are not tried."""
UNTRIED = 1
"""The index in FEWEST for runs that are not tried."""

NAMES: dict[str, str | int] = {
    "trial_fewest": f"[{len(FEWEST)} x i64] [{', '.join(f'i64 {fewest}' for fewest in FEWEST)}]",
    "trial_modes": len(FEWEST),
    "trial_alone": len(FEWEST) - 1,
    "trial_end": RUNS * len(FEWEST),
    "trial_first_period": FIRST_PERIOD,
    "trial_period": PERIOD,
    "trial_alone_period": ALONE_PERIOD,
    "trial_alone_time": ALONE_TIME,
    "trial_long": LONG,
    "trial_untried": UNTRIED,
    "small_job": FEWEST[UNTRIED],
}

TEXT = """
@bessemer_fewest = internal constant $trial_fewest

define hidden i64 @bessemer_sizes(ptr %dims, i32 %count, i64 %seed) $baseline {
entry:
  br label %next
next:
  %d = phi i32 [ 0, %entry ], [ %more, %look ]
  %hash = phi i64 [ %seed, %entry ], [ %mixed, %look ]
  %inside = icmp ult i32 %d, %count
  br i1 %inside, label %look, label %done
look:
  %wide = zext i32 %d to i64
  %at = getelementptr i64, ptr %dims, i64 %wide
  %dim = load i64, ptr %at
  %scaled = mul i64 %hash, 1099511628211
  %mixed = add i64 %scaled, %dim
  %more = add i32 %d, 1
  br label %next
done:
  ret i64 %hash
}

define hidden void @bessemer_keep(ptr %pool, i64 %mode) $baseline {
  %from = getelementptr i64, ptr @bessemer_fewest, i64 %mode
  %fewest = load i64, ptr %from
  %fewest.at = getelementptr %bessemer.pool, ptr %pool, $pool_fewest
  store i64 %fewest, ptr %fewest.at
  ret void
}

define hidden i64 @bessemer_fastest(ptr %pool) $baseline {
  %best = getelementptr %bessemer.pool, ptr %pool, $pool_best
  %b1.at = getelementptr i64, ptr %best, i64 1
  %b2.at = getelementptr i64, ptr %best, i64 2
  %b0 = load i64, ptr %best
  %b1 = load i64, ptr %b1.at
  %b2 = load i64, ptr %b2.at
  %less1 = icmp slt i64 %b1, %b0
  %first = select i1 %less1, i64 1, i64 0
  %time = select i1 %less1, i64 %b1, i64 %b0
  %less2 = icmp slt i64 %b2, %time
  %fastest = select i1 %less2, i64 2, i64 %first
  ret i64 %fastest
}

define hidden i32 @bessemer_body(
  ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %weights, ptr %workspace, i64 %bytes,
  ptr %graph
) $baseline {
entry:
  %body = field graph.body, %graph
  %pool = field context.pool, %context
  %none = icmp eq ptr %pool, null
  br i1 %none, label %plain, label %whose
plain:
  %status.plain = call i32 %body(
    ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %weights, ptr %workspace, i64 %bytes
  )
  ret i32 %status.plain
whose:
  %tried.at = getelementptr %bessemer.pool, ptr %pool, $pool_tried
  %counter.at = getelementptr %bessemer.pool, ptr %pool, $pool_counter
  %count = field graph.input_dim_count, %graph
  %number = ptrtoint ptr %graph to i64
  %key = call i64 @bessemer_sizes(ptr %dims, i32 %count, i64 %number)
  %old = load i64, ptr %tried.at
  %same = icmp eq i64 %key, %old
  %counted = load i64, ptr %counter.at
  %counter = select i1 %same, i64 %counted, i64 0
  %period.at = getelementptr %bessemer.pool, ptr %pool, $pool_period
  %running = load i64, ptr %period.at
  %period = select i1 %same, i64 %running, i64 $trial_first_period
  store i64 %key, ptr %tried.at
  store i64 %counter, ptr %counter.at
  store i64 %period, ptr %period.at
  %settled = icmp uge i64 %counter, $trial_end
  br i1 %settled, label %count_on, label %trial
count_on:
  %following = add i64 %counter, 1
  %over = icmp uge i64 %following, %period
  %next = select i1 %over, i64 0, i64 %following
  store i64 %next, ptr %counter.at
  br i1 %over, label %lengthen, label %plain
lengthen:
  %twice = shl i64 %period, 1
  %longer = call i64 @llvm.umin.i64(i64 %twice, i64 $trial_period)
  store i64 %longer, ptr %period.at
  br label %plain
trial:
  %turn = udiv i64 %counter, $trial_modes
  %there = urem i64 %counter, $trial_modes
  %back = sub i64 $trial_alone, %there
  %odd = trunc i64 %turn to i1
  %mode = select i1 %odd, i64 %back, i64 %there
  call void @bessemer_keep(ptr %pool, i64 %mode)
  %begin = call i64 @bessemer_nanoseconds()
  %opening = icmp eq i64 %counter, 0
  br i1 %opening, label %rouse, label %timed
rouse:
  %missed.at = getelementptr %bessemer.pool, ptr %pool, $pool_missed
  %last.at = getelementptr %bessemer.pool, ptr %pool, $pool_missed_at
  %now = udiv i64 %begin, 1000
  store i64 $worth_waking, ptr %missed.at
  store i64 %now, ptr %last.at
  br label %timed
timed:
  %status = call i32 %body(
    ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %weights, ptr %workspace, i64 %bytes
  )
  %end = call i64 @bessemer_nanoseconds()
  %failed = icmp ne i32 %status, 0
  br i1 %failed, label %done, label %note
note:
  %took = sub i64 %end, %begin
  %best = getelementptr %bessemer.pool, ptr %pool, $pool_best
  %best.at = getelementptr i64, ptr %best, i64 %mode
  %before = load i64, ptr %best.at
  %is_first = icmp eq i64 %turn, 0
  %shorter = call i64 @llvm.umin.i64(i64 %took, i64 %before)
  %least = select i1 %is_first, i64 %took, i64 %shorter
  store i64 %least, ptr %best.at
  %after = add i64 %counter, 1
  store i64 %after, ptr %counter.at
  %last = icmp eq i64 %after, $trial_end
  br i1 %last, label %choose, label %ask
ask:
  %one = icmp eq i64 %after, 1
  %long = icmp ugt i64 %least, $trial_long
  %enough = and i1 %one, %long
  br i1 %enough, label %stay, label %done
stay:
  call void @bessemer_keep(ptr %pool, i64 $trial_untried)
  store i64 $trial_end, ptr %counter.at
  br label %done
choose:
  %fastest = call i64 @bessemer_fastest(ptr %pool)
  call void @bessemer_keep(ptr %pool, i64 %fastest)
  %none.small = icmp eq i64 %fastest, $trial_alone
  %alone.at = getelementptr i64, ptr %best, i64 $trial_alone
  %alone = load i64, ptr %alone.at
  %some.time = call i64 @llvm.umax.i64(i64 %alone, i64 1)
  %fitting = udiv i64 $trial_alone_time, %some.time
  %enough.runs = call i64 @llvm.umax.i64(i64 %fitting, i64 $trial_alone_period)
  %most = select i1 %none.small, i64 %enough.runs, i64 $trial_period
  %nearer = call i64 @llvm.umin.i64(i64 %period, i64 %most)
  store i64 %nearer, ptr %period.at
  br label %done
done:
  ret i32 %status
}
"""

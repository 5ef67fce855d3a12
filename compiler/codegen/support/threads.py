"""Runs the parallel loops of an artifact, as LLVM IR over pthreads.

Every worker has a slot of its own, with a ticket that counts its jobs, and a condition to sleep on.
The caller writes chunks of the job into the slots that it needs and raises their tickets. It then
does chunk 0 itself, and after that the chunks that have not been begun, and waits until all others
are finished. Worker and caller claim a chunk by raising `claimed` to the ticket, in which only one
of the two succeeds. A worker that has finished looks at its ticket for up to `spin` microseconds
before it sleeps, and yields the processor to other threads meanwhile. Workers that are not needed
are not touched. The caller owns the chunk in a slot until that is finished, so nothing in it is
written while it is read.

A cache line that the other core has written takes 60 nanoseconds to come, or 270 if the cores share
no cache. So a worker finds all that it needs in the line of its ticket, writes only lines of its
own, and claims its chunk in a line that the caller does not look at if it sees `begun`. The caller
waits for no line before it begins its own chunk. (A job of 4 microseconds for each of two cores
that share no cache took 5.4 with one line for all and a counter of the chunks that remain, and
takes 5.0.)

To wake a sleeping worker takes the caller about ten microseconds, and the worker as many. So a
small job goes only to workers that are awake. If several small jobs have found sleepers within the
time that a worker would have stayed awake, in one run or in several, the next job wakes them.

Sleeping and waking follow Dekker's rule (each side writes its flag, then reads the other's, both
sequentially consistent): no wake-up is lost, and no lock is taken while both sides are awake. A
small job does without: to read the other's flag only after its own is written would take as long as
a line. If a worker falls asleep at that moment, the caller claims its chunk.

pool.py starts and ends the workers; spin.py is how they look for work.
"""

from __future__ import annotations

_DECLARATIONS = """
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_signal(ptr)
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
"""

# One chunk of a job: a contiguous part, sizes differing by at most one. And the face of it that the
# caller's own parallel_for gets, which may run on any thread.
_CHUNK = """
define hidden i64 @bessemer_begin(ptr %job, i64 %index) $baseline {
  %extent = field job.extent, %job
  %chunks = field job.chunks, %job
  %size = udiv i64 %extent, %chunks
  %extra = urem i64 %extent, %chunks
  %longer = call i64 @llvm.umin.i64(i64 %index, i64 %extra)
  %even = mul i64 %index, %size
  %begin = add i64 %even, %longer
  ret i64 %begin
}

define hidden void @bessemer_chunk(ptr %job, i64 %index) $baseline {
  %kernel = field job.kernel, %job
  %buffers = field job.buffers, %job
  %dims = field job.dims, %job
  %next = add i64 %index, 1
  %begin = call i64 @bessemer_begin(ptr %job, i64 %index)
  %end = call i64 @bessemer_begin(ptr %job, i64 %next)
  call void %kernel(ptr %buffers, ptr %dims, i64 %begin, i64 %end)
  ret void
}

define hidden void @bessemer_task(ptr %job, i64 %index) $baseline {
  %mode = call i64 @bessemer_flush_denormals()
  call void @bessemer_chunk(ptr %job, i64 %index)
  call void @bessemer_restore_denormals(i64 %mode)
  ret void
}
"""

_WORKER = """
define hidden ptr @bessemer_worker(ptr %slot) $baseline {
entry:
  %ignored = call i64 @bessemer_flush_denormals()
  %begun.at = getelementptr %bessemer.slot, ptr %slot, $slot_begun
  %finished.at = getelementptr %bessemer.slot, ptr %slot, $slot_finished
  %sleeping.at = getelementptr %bessemer.slot, ptr %slot, $slot_sleeping
  %claimed.at = getelementptr %bessemer.slot, ptr %slot, $slot_claimed
  %mutex = getelementptr %bessemer.slot, ptr %slot, $slot_mutex
  %wake = getelementptr %bessemer.slot, ptr %slot, $slot_wake
  %pool = field slot.pool, %slot
  %spin = field pool.spin, %pool
  %waiting.at = getelementptr %bessemer.pool, ptr %pool, $pool_waiting
  %pool.mutex = getelementptr %bessemer.pool, ptr %pool, $pool_mutex
  %pool.wake = getelementptr %bessemer.pool, ptr %pool, $pool_wake
  br label %wait
wait:
  %seen = phi i32 [ 0, %entry ], [ %ticket, %work ], [ %ticket, %run ], [ %ticket, %tell ]
  call void @bessemer_spin(ptr %slot, i32 %seen, i1 true, i32 %spin)
  %spun = load atomic i32, ptr %slot acquire, align 4
  %idle = icmp eq i32 %spun, %seen
  br i1 %idle, label %sleep, label %work
sleep:
  %lock = call i32 @pthread_mutex_lock(ptr %mutex)
  br label %asleep
; A caller that found a worker asleep may signal when it has done that job and sleeps again: then
; nobody would wake it any more if it did not say once more that it sleeps.
asleep:
  store atomic i32 1, ptr %sleeping.at seq_cst, align 4
  %woken = load atomic i32, ptr %slot seq_cst, align 4
  %still = icmp eq i32 %woken, %seen
  br i1 %still, label %doze, label %awake
doze:
  %slept = call i32 @pthread_cond_wait(ptr %wake, ptr %mutex)
  br label %asleep
awake:
  store atomic i32 0, ptr %sleeping.at seq_cst, align 4
  %unlock = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %work
work:
  %ticket = phi i32 [ %spun, %wait ], [ %woken, %awake ]
  %unclaimed = sub i32 %ticket, 1
  %claim = cmpxchg ptr %claimed.at, i32 %unclaimed, i32 %ticket seq_cst seq_cst
  %ours = extractvalue { i32, i1 } %claim, 1
  br i1 %ours, label %read, label %wait
read:
  %kernel = field slot.kernel, %slot
  %buffers = field slot.buffers, %slot
  %dims = field slot.dims, %slot
  %begin = field slot.begin, %slot
  %end = field slot.end, %slot
  %stop = icmp eq ptr %kernel, null
  br i1 %stop, label %leave, label %run
run:
  store atomic i32 %ticket, ptr %begun.at release, align 4
  call void %kernel(ptr %buffers, ptr %dims, i64 %begin, i64 %end)
  store atomic i32 %ticket, ptr %finished.at seq_cst, align 4
  %waiting = load atomic i32, ptr %waiting.at seq_cst, align 4
  %quiet = icmp eq i32 %waiting, 0
  br i1 %quiet, label %wait, label %tell
tell:
  %lock2 = call i32 @pthread_mutex_lock(ptr %pool.mutex)
  %signal = call i32 @pthread_cond_signal(ptr %pool.wake)
  %unlock2 = call i32 @pthread_mutex_unlock(ptr %pool.mutex)
  br label %wait
leave:
  ret ptr null
}
"""

# The caller's side. Slot i (from 0) does chunk i + 1. A null job ends the worker. `surely` wakes
# whoever sleeps; without it, a worker that falls asleep meanwhile may miss the ticket.
_CALLER = """
define hidden ptr @bessemer_slot(ptr %pool, i64 %index) $baseline {
  %offset = mul i64 %index, $slot_bytes
  %begin = add i64 %offset, $pool_bytes
  %slot = getelementptr i8, ptr %pool, i64 %begin
  ret ptr %slot
}

define hidden void @bessemer_hand_out(ptr %slot, ptr %job, i64 %index, i1 %surely) $baseline {
entry:
  %kernel.at = getelementptr %bessemer.slot, ptr %slot, $slot_kernel
  %old = load atomic i32, ptr %slot monotonic, align 4
  %ticket = add i32 %old, 1
  %stop = icmp eq ptr %job, null
  br i1 %stop, label %end, label %fill
end:
  store ptr null, ptr %kernel.at
  br label %issue
fill:
  %buffers.at = getelementptr %bessemer.slot, ptr %slot, $slot_buffers
  %dims.at = getelementptr %bessemer.slot, ptr %slot, $slot_dims
  %begin.at = getelementptr %bessemer.slot, ptr %slot, $slot_begin
  %end.at = getelementptr %bessemer.slot, ptr %slot, $slot_end
  %kernel = field job.kernel, %job
  %buffers = field job.buffers, %job
  %dims = field job.dims, %job
  %next = add i64 %index, 1
  %from = call i64 @bessemer_begin(ptr %job, i64 %index)
  %to = call i64 @bessemer_begin(ptr %job, i64 %next)
  store ptr %kernel, ptr %kernel.at
  store ptr %buffers, ptr %buffers.at
  store ptr %dims, ptr %dims.at
  store i64 %from, ptr %begin.at
  store i64 %to, ptr %end.at
  br label %issue
issue:
  store atomic i32 %ticket, ptr %slot release, align 4
  br i1 %surely, label %look, label %done
look:
  fence seq_cst
  %sleeping.at = getelementptr %bessemer.slot, ptr %slot, $slot_sleeping
  %sleeping = load atomic i32, ptr %sleeping.at seq_cst, align 4
  %awake = icmp eq i32 %sleeping, 0
  br i1 %awake, label %done, label %wake
wake:
  %mutex = getelementptr %bessemer.slot, ptr %slot, $slot_mutex
  %condition = getelementptr %bessemer.slot, ptr %slot, $slot_wake
  %lock = call i32 @pthread_mutex_lock(ptr %mutex)
  store atomic i32 0, ptr %sleeping.at seq_cst, align 4
  %signal = call i32 @pthread_cond_signal(ptr %condition)
  %unlock = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %done
done:
  ret void
}

; How many of the first `count` slots, in order, have workers that are awake.
define hidden i64 @bessemer_awake(ptr %pool, i64 %count) $baseline {
entry:
  br label %next
next:
  %index = phi i64 [ 0, %entry ], [ %more, %look ]
  %left = icmp ult i64 %index, %count
  br i1 %left, label %look, label %done
look:
  %slot = call ptr @bessemer_slot(ptr %pool, i64 %index)
  %sleeping.at = getelementptr %bessemer.slot, ptr %slot, $slot_sleeping
  %sleeping = load atomic i32, ptr %sleeping.at monotonic, align 4
  %awake = icmp eq i32 %sleeping, 0
  %more = add i64 %index, 1
  br i1 %awake, label %next, label %done
done:
  ret i64 %index
}

; Does those chunks of the first `count` slots that nobody has begun.
define hidden void @bessemer_claim(ptr %pool, ptr %job, i64 %count) $baseline {
entry:
  br label %next
next:
  %index = phi i64 [ 0, %entry ], [ %chunk, %look ], [ %chunk, %try ], [ %chunk, %run ]
  %left = icmp ult i64 %index, %count
  br i1 %left, label %look, label %done
look:
  %chunk = add i64 %index, 1
  %slot = call ptr @bessemer_slot(ptr %pool, i64 %index)
  %begun.at = getelementptr %bessemer.slot, ptr %slot, $slot_begun
  %ticket = load atomic i32, ptr %slot monotonic, align 4
  %begun = load atomic i32, ptr %begun.at monotonic, align 4
  %late = icmp eq i32 %begun, %ticket
  br i1 %late, label %next, label %try
try:
  %claimed.at = getelementptr %bessemer.slot, ptr %slot, $slot_claimed
  %unclaimed = sub i32 %ticket, 1
  %claim = cmpxchg ptr %claimed.at, i32 %unclaimed, i32 %ticket seq_cst seq_cst
  %ours = extractvalue { i32, i1 } %claim, 1
  br i1 %ours, label %run, label %next
run:
  call void @bessemer_chunk(ptr %job, i64 %chunk)
  %finished.at = getelementptr %bessemer.slot, ptr %slot, $slot_finished
  store atomic i32 %ticket, ptr %finished.at monotonic, align 4
  br label %next
done:
  ret void
}

; Waits for the first `count` slots.
define hidden void @bessemer_await(ptr %pool, i64 %count) $baseline {
entry:
  %waiting.at = getelementptr %bessemer.pool, ptr %pool, $pool_waiting
  %mutex = getelementptr %bessemer.pool, ptr %pool, $pool_mutex
  %wake = getelementptr %bessemer.pool, ptr %pool, $pool_wake
  %spin = field pool.spin, %pool
  br label %next
next:
  %index = phi i64 [ 0, %entry ], [ %more, %look ], [ %more, %awake ]
  %left = icmp ult i64 %index, %count
  br i1 %left, label %look, label %done
look:
  %more = add i64 %index, 1
  %slot = call ptr @bessemer_slot(ptr %pool, i64 %index)
  %finished.at = getelementptr %bessemer.slot, ptr %slot, $slot_finished
  %ticket = load atomic i32, ptr %slot monotonic, align 4
  call void @bessemer_spin(ptr %finished.at, i32 %ticket, i1 false, i32 %spin)
  %spun = load atomic i32, ptr %finished.at acquire, align 4
  %there = icmp eq i32 %spun, %ticket
  br i1 %there, label %next, label %sleep
sleep:
  %lock = call i32 @pthread_mutex_lock(ptr %mutex)
  store atomic i32 1, ptr %waiting.at seq_cst, align 4
  br label %asleep
asleep:
  %last = load atomic i32, ptr %finished.at seq_cst, align 4
  %over = icmp eq i32 %last, %ticket
  br i1 %over, label %awake, label %doze
doze:
  %slept = call i32 @pthread_cond_wait(ptr %wake, ptr %mutex)
  br label %asleep
awake:
  store atomic i32 0, ptr %waiting.at seq_cst, align 4
  %unlock = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %next
done:
  ret void
}
"""

# `shares` is how many threads the work is worth, in smallest shares (see shares.py); it also says
# whether a job is small.
_PARALLEL = """
define hidden void @bessemer_parallel(
  ptr %context, ptr %kernel, ptr %buffers, ptr %dims, i64 %extent, i64 %shares
) $baseline {
entry:
  %job = alloca %bessemer.job
  %empty = icmp sle i64 %extent, 0
  br i1 %empty, label %done, label %count
count:
  %threads = field options.threads, %context
  %most = zext i32 %threads to i64
  %fitting = call i64 @llvm.umin.i64(i64 %extent, i64 %shares)
  %wanted = call i64 @llvm.umin.i64(i64 %fitting, i64 %most)
  %alone = icmp ule i64 %wanted, 1
  br i1 %alone, label %direct, label %share
direct:
  call void %kernel(ptr %buffers, ptr %dims, i64 0, i64 %extent)
  br label %done
share:
  %kernel.at = getelementptr %bessemer.job, ptr %job, $job_kernel
  %buffers.at = getelementptr %bessemer.job, ptr %job, $job_buffers
  %dims.at = getelementptr %bessemer.job, ptr %job, $job_dims
  %extent.at = getelementptr %bessemer.job, ptr %job, $job_extent
  %chunks.at = getelementptr %bessemer.job, ptr %job, $job_chunks
  store ptr %kernel, ptr %kernel.at
  store ptr %buffers, ptr %buffers.at
  store ptr %dims, ptr %dims.at
  store i64 %extent, ptr %extent.at
  store i64 %wanted, ptr %chunks.at
  %callback = field options.parallel_for, %context
  %user = field options.parallel_user, %context
  %own = icmp eq ptr %callback, null
  br i1 %own, label %inside, label %outside
outside:
  %tiny = icmp ult i64 %shares, $small_job
  br i1 %tiny, label %direct, label %call
call:
  call void %callback(ptr %user, i64 %wanted, ptr @bessemer_task, ptr %job)
  br label %done
inside:
  %pool = call ptr @bessemer_pool(ptr %context)
  %none = icmp eq ptr %pool, null
  br i1 %none, label %direct, label %judge
judge:
  %fewest = field pool.fewest, %pool
  %few = icmp ult i64 %shares, %fewest
  br i1 %few, label %direct, label %publish
publish:
  %surely = icmp uge i64 %shares, $worth_waking
  %workers = field pool.workers, %pool
  %workers.wide = zext i32 %workers to i64
  %helpers.wanted = sub i64 %wanted, 1
  %most.helpers = call i64 @llvm.umin.i64(i64 %helpers.wanted, i64 %workers.wide)
  %awake = call i64 @bessemer_awake(ptr %pool, i64 %most.helpers)
  %all.awake = icmp eq i64 %awake, %most.helpers
  br i1 %all.awake, label %divide, label %weigh
weigh:
  %missed.at = getelementptr %bessemer.pool, ptr %pool, $pool_missed
  %last.at = getelementptr %bessemer.pool, ptr %pool, $pool_missed_at
  %last = load i64, ptr %last.at
  %spin = field pool.spin, %pool
  %patience = sext i32 %spin to i64
  %now = call i64 @bessemer_microseconds()
  store i64 %now, ptr %last.at
  %passed = sub i64 %now, %last
  %old = icmp sgt i64 %passed, %patience
  %counted = load i64, ptr %missed.at
  %missed = select i1 %old, i64 0, i64 %counted
  %missed.now = add i64 %missed, %shares
  %wakes = icmp uge i64 %missed.now, $worth_waking
  %missed.next = select i1 %wakes, i64 0, i64 %missed.now
  store i64 %missed.next, ptr %missed.at
  %some = select i1 %wakes, i64 %most.helpers, i64 %awake
  %nobody = icmp eq i64 %some, 0
  br i1 %nobody, label %direct, label %divide
divide:
  %helpers = phi i64 [ %most.helpers, %publish ], [ %some, %weigh ]
  %rouses = phi i1 [ %surely, %publish ], [ %wakes, %weigh ]
  %chunks = add i64 %helpers, 1
  store i64 %chunks, ptr %chunks.at
  br label %hand_out
hand_out:
  %index = phi i64 [ 0, %divide ], [ %chunk, %hand_out ]
  %chunk = add i64 %index, 1
  %slot = call ptr @bessemer_slot(ptr %pool, i64 %index)
  call void @bessemer_hand_out(ptr %slot, ptr %job, i64 %chunk, i1 %rouses)
  %more = icmp ult i64 %chunk, %helpers
  br i1 %more, label %hand_out, label %own_share
own_share:
  call void @bessemer_chunk(ptr %job, i64 0)
  call void @bessemer_claim(ptr %pool, ptr %job, i64 %helpers)
  call void @bessemer_await(ptr %pool, i64 %helpers)
  br label %done
done:
  ret void
}
"""

TEXT = _DECLARATIONS + _CHUNK + _WORKER + _CALLER + _PARALLEL

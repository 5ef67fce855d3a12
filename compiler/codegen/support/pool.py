"""Writes the functions that start and stop a context's thread pool, as LLVM IR over pthreads.

The pool starts at the first parallel call and ends with the context. After a fork, the child finds
that the pool belongs to another process and forgets it; the child's next parallel call starts a new
one.
"""

from __future__ import annotations

_DECLARATIONS = """
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_destroy(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_destroy(ptr)
declare i32 @sigfillset(ptr)
declare i32 @getpid()
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""

# Signals are blocked while the workers start, so that they inherit it: the program's handlers
# keep running on its own threads. SIGILL, SIGTRAP, SIGBUS, SIGFPE and SIGSEGV (bits 3, 4, 6, 7 and
# 10) stay: they are about the thread itself, and kill the process where they are blocked. Where no
# thread can be started, the context goes on with one.
_START = """
define hidden ptr @bessemer_pool(ptr %context) $baseline {
entry:
  %all = alloca [16 x i64]
  %old = alloca [16 x i64]
  %pool.at = getelementptr %bessemer.context, ptr %context, $context_pool
  %ready = load ptr, ptr %pool.at
  %exists = icmp ne ptr %ready, null
  br i1 %exists, label %found, label %start
found:
  ret ptr %ready
start:
  %threads.at = getelementptr %bessemer.options, ptr %context, $options_threads
  %threads = load i32, ptr %threads.at
  %spin = field options.spin, %context
  %wanted = sub i32 %threads, 1
  %wide = zext i32 %wanted to i64
  %slots = mul i64 %wide, $slot_bytes
  %bytes = add i64 %slots, $pool_bytes
  %pool = call ptr @bessemer_allocate(ptr %context, i64 %bytes)
  %failed = icmp eq ptr %pool, null
  br i1 %failed, label %alone, label %fill
fill:
  call void @llvm.memset.p0.i64(ptr %pool, i8 0, i64 %bytes, i1 false)
  %owner.at = getelementptr %bessemer.pool, ptr %pool, $pool_owner
  %workers.at = getelementptr %bessemer.pool, ptr %pool, $pool_workers
  %spin.at = getelementptr %bessemer.pool, ptr %pool, $pool_spin
  %mutex = getelementptr %bessemer.pool, ptr %pool, $pool_mutex
  %wake = getelementptr %bessemer.pool, ptr %pool, $pool_wake
  %bytes.at = getelementptr %bessemer.pool, ptr %pool, $pool_bytes_given
  store i64 %bytes, ptr %bytes.at
  %owner = call i32 @getpid()
  store i32 %owner, ptr %owner.at
  store i32 %spin, ptr %spin.at
  %i1 = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %i2 = call i32 @pthread_cond_init(ptr %wake, ptr null)
  %i3 = call i32 @sigfillset(ptr %all)
  %filled = load i64, ptr %all
  %blocked = and i64 %filled, -1241
  store i64 %blocked, ptr %all
  %i4 = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %old)
  br label %next
next:
  %count = phi i32 [ 0, %fill ], [ %more, %started ]
  %enough = icmp uge i32 %count, %wanted
  br i1 %enough, label %finish, label %create
create:
  %index = zext i32 %count to i64
  %slot = call ptr @bessemer_slot(ptr %pool, i64 %index)
  %slot.pool = getelementptr %bessemer.slot, ptr %slot, $slot_pool
  %slot.thread = getelementptr %bessemer.slot, ptr %slot, $slot_thread
  %slot.mutex = getelementptr %bessemer.slot, ptr %slot, $slot_mutex
  %slot.wake = getelementptr %bessemer.slot, ptr %slot, $slot_wake
  store ptr %pool, ptr %slot.pool
  %i5 = call i32 @pthread_mutex_init(ptr %slot.mutex, ptr null)
  %i6 = call i32 @pthread_cond_init(ptr %slot.wake, ptr null)
  %error = call i32 @pthread_create(ptr %slot.thread, ptr null, ptr @bessemer_worker, ptr %slot)
  %refused = icmp ne i32 %error, 0
  br i1 %refused, label %finish, label %started
started:
  %more = add i32 %count, 1
  br label %next
finish:
  %i7 = call i32 @pthread_sigmask(i32 2, ptr %old, ptr null)
  store i32 %count, ptr %workers.at
  %nobody = icmp eq i32 %count, 0
  br i1 %nobody, label %give_up, label %keep
keep:
  store ptr %pool, ptr %pool.at
  ret ptr %pool
give_up:
  call void @bessemer_release(ptr %context, ptr %pool, i64 %bytes)
  br label %alone
alone:
  store i32 1, ptr %threads.at
  ret ptr null
}
"""

_STOP = """
define hidden void @bessemer_pool_stop(ptr %context) $baseline {
entry:
  %pool.at = getelementptr %bessemer.context, ptr %context, $context_pool
  %pool = load ptr, ptr %pool.at
  %none = icmp eq ptr %pool, null
  br i1 %none, label %done, label %whose
whose:
  %owner = field pool.owner, %pool
  %workers = field pool.workers, %pool
  %wide = zext i32 %workers to i64
  %self = call i32 @getpid()
  %ours = icmp eq i32 %owner, %self
  br i1 %ours, label %next, label %forget
next:
  %index = phi i64 [ 0, %whose ], [ %more, %stop ]
  %left = icmp ult i64 %index, %wide
  br i1 %left, label %stop, label %stopped
stop:
  %slot = call ptr @bessemer_slot(ptr %pool, i64 %index)
  %slot.mutex = getelementptr %bessemer.slot, ptr %slot, $slot_mutex
  %slot.wake = getelementptr %bessemer.slot, ptr %slot, $slot_wake
  call void @bessemer_hand_out(ptr %slot, ptr null, i64 0, i1 true)
  %thread = field slot.thread, %slot
  %joined = call i32 @pthread_join(i64 %thread, ptr null)
  %i1 = call i32 @pthread_cond_destroy(ptr %slot.wake)
  %i2 = call i32 @pthread_mutex_destroy(ptr %slot.mutex)
  %more = add i64 %index, 1
  br label %next
stopped:
  %mutex = getelementptr %bessemer.pool, ptr %pool, $pool_mutex
  %wake = getelementptr %bessemer.pool, ptr %pool, $pool_wake
  %i3 = call i32 @pthread_cond_destroy(ptr %wake)
  %i4 = call i32 @pthread_mutex_destroy(ptr %mutex)
  br label %forget
forget:
  %bytes = field pool.bytes_given, %pool
  call void @bessemer_release(ptr %context, ptr %pool, i64 %bytes)
  store ptr null, ptr %pool.at
  br label %done
done:
  ret void
}

define hidden void @bessemer_after_fork(ptr %context) $baseline {
entry:
  %pool = field context.pool, %context
  %none = icmp eq ptr %pool, null
  br i1 %none, label %done, label %whose
whose:
  %owner = load i32, ptr %pool
  %self = call i32 @getpid()
  %ours = icmp eq i32 %owner, %self
  br i1 %ours, label %done, label %forget
forget:
  call void @bessemer_pool_stop(ptr %context)
  br label %done
done:
  ret void
}
"""

TEXT = _DECLARATIONS + _START + _STOP

"""Waits for another thread without sleeping, as LLVM IR.

`bessemer_spin` reads a word for up to `limit` microseconds, while (word == value) is `equal`. For
the first one to three microseconds it does nothing else, so that the next kernel begins at once.
After that, every 16 pauses (of 10 to 140 cycles each) it reads the clock and yields the processor:
if caller and worker are on the same processor, spinning only delays what it waits for (112
microseconds per parallel section in place of 8, on a busy machine).
"""

from __future__ import annotations

TEXT = """
declare i32 @clock_gettime(i32, ptr)
declare i32 @sched_yield()

define hidden i64 @bessemer_nanoseconds() $baseline {
  %time = alloca { i64, i64 }
  %ignored = call i32 @clock_gettime(i32 1, ptr %time)
  %nano.at = getelementptr { i64, i64 }, ptr %time, i32 0, i32 1
  %seconds = load i64, ptr %time
  %nano = load i64, ptr %nano.at
  %scaled = mul i64 %seconds, 1000000000
  %sum = add i64 %scaled, %nano
  ret i64 %sum
}

define hidden i64 @bessemer_microseconds() $baseline {
  %nano = call i64 @bessemer_nanoseconds()
  %micro = udiv i64 %nano, 1000
  ret i64 %micro
}

define hidden void @bessemer_spin(ptr %word, i32 %value, i1 %equal, i32 %limit) $baseline {
entry:
  %never = icmp sle i32 %limit, 0
  br i1 %never, label %done, label %glance
glance:
  %glances = phi i32 [ 0, %entry ], [ %glances.next, %blink ]
  %seen = load atomic i32, ptr %word acquire, align 4
  %unchanged = icmp eq i32 %seen, %value
  %stay = icmp eq i1 %unchanged, %equal
  br i1 %stay, label %blink, label %done
blink:
  $pause
  %glances.next = add i32 %glances, 1
  %patient = icmp ult i32 %glances.next, $glances
  br i1 %patient, label %glance, label %start
start:
  %begin = call i64 @bessemer_microseconds()
  %allowed = sext i32 %limit to i64
  br label %look
look:
  %count = phi i32 [ 0, %start ], [ %next, %pause ], [ %next, %clock ]
  %now = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %now, %value
  %go_on = icmp eq i1 %same, %equal
  br i1 %go_on, label %pause, label %done
pause:
  $pause
  %next = add i32 %count, 1
  %phase = and i32 %next, 15
  %check = icmp eq i32 %phase, 0
  br i1 %check, label %clock, label %look
clock:
  %yielded = call i32 @sched_yield()
  %time = call i64 @bessemer_microseconds()
  %passed = sub i64 %time, %begin
  %late = icmp sgt i64 %passed, %allowed
  br i1 %late, label %done, label %look
done:
  ret void
}
"""

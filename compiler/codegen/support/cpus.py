"""Writes a function that counts the processors that this process may use, as LLVM IR: the default
number of threads.

It is the smaller of two numbers: the processors in the thread's affinity mask, and the control
group's CPU quota, rounded up. Version 2 of control groups has a quota file in every folder from the
process's own up to the root; version 1 has one, which in a container is at a fixed path.
"""

from __future__ import annotations

from bessemer.compiler.codegen.support.constants import c_string

_DECLARATIONS = """
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i64 @sysconf(i32)
declare ptr @fopen(ptr, ptr)
declare i32 @fclose(ptr)
declare ptr @fgets(ptr, i32, ptr)
declare i32 @sscanf(ptr, ptr, ...)
declare i32 @strncmp(ptr, ptr, i64)
declare ptr @strrchr(ptr, i32)
declare i64 @strcspn(ptr, ptr)
declare i64 @llvm.ctpop.i64(i64)
declare i64 @llvm.smin.i64(i64, i64)
"""

_STRINGS = {
    "bessemer_read": "re",
    "bessemer_own_group": "/proc/self/cgroup",
    "bessemer_group_mark": "0::",
    "bessemer_newline": "\n",
    "bessemer_group_file": "/sys/fs/cgroup%s/cpu.max",
    "bessemer_two_numbers": "%lld %lld",
    "bessemer_old_quota": "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "bessemer_old_period": "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
}

# 84 is _SC_NPROCESSORS_ONLN; the mask call fails only on machines with over 1024 processors.
_CODE = """
define hidden i64 @bessemer_allowed_processors() $baseline {
entry:
  %mask = alloca [16 x i64]
  call void @llvm.memset.p0.i64(ptr %mask, i8 0, i64 128, i1 false)
  %result = call i32 @sched_getaffinity(i32 0, i64 128, ptr %mask)
  %failed = icmp slt i32 %result, 0
  br i1 %failed, label %ask, label %next
ask:
  %online = call i64 @sysconf(i32 84)
  ret i64 %online
next:
  %index = phi i64 [ 0, %entry ], [ %following, %next ]
  %sum = phi i64 [ 0, %entry ], [ %more, %next ]
  %word.at = getelementptr [16 x i64], ptr %mask, i64 0, i64 %index
  %word = load i64, ptr %word.at
  %ones = call i64 @llvm.ctpop.i64(i64 %word)
  %more = add i64 %sum, %ones
  %following = add i64 %index, 1
  %go_on = icmp ult i64 %following, 16
  br i1 %go_on, label %next, label %done
done:
  ret i64 %more
}

; Reads the first line of a file into 4096 bytes; whether there was one.
define hidden i1 @bessemer_first_line(ptr %path, ptr %line) $baseline {
entry:
  store i8 0, ptr %line
  %file = call ptr @fopen(ptr %path, ptr @bessemer_read)
  %missing = icmp eq ptr %file, null
  br i1 %missing, label %none, label %read
read:
  %got = call ptr @fgets(ptr %line, i32 4096, ptr %file)
  %closed = call i32 @fclose(ptr %file)
  %found = icmp ne ptr %got, null
  ret i1 %found
none:
  ret i1 false
}

; The quota in processors, rounded up; a huge number where there is none.
define hidden i64 @bessemer_in_processors(i64 %quota, i64 %period) $baseline {
  %has_quota = icmp sgt i64 %quota, 0
  %has_period = icmp sgt i64 %period, 0
  %limited = and i1 %has_quota, %has_period
  %divisor = select i1 %has_period, i64 %period, i64 1
  %less = sub i64 %divisor, 1
  %top = add i64 %quota, %less
  %processors = sdiv i64 %top, %divisor
  %limit = select i1 %limited, i64 %processors, i64 1000000
  ret i64 %limit
}

; The line of /proc/self/cgroup that begins with 0:: becomes the path after it; "" where none does.
define hidden void @bessemer_own_path(ptr %path) $baseline {
entry:
  %line = alloca [4096 x i8]
  store i8 0, ptr %path
  %file = call ptr @fopen(ptr @bessemer_own_group, ptr @bessemer_read)
  %missing = icmp eq ptr %file, null
  br i1 %missing, label %none, label %next
next:
  %got = call ptr @fgets(ptr %line, i32 4096, ptr %file)
  %end = icmp eq ptr %got, null
  br i1 %end, label %close, label %compare
compare:
  %difference = call i32 @strncmp(ptr %line, ptr @bessemer_group_mark, i64 3)
  %same = icmp eq i32 %difference, 0
  br i1 %same, label %take, label %next
take:
  %length = call i64 @strcspn(ptr %line, ptr @bessemer_newline)
  %last = getelementptr i8, ptr %line, i64 %length
  store i8 0, ptr %last
  %after = getelementptr i8, ptr %line, i64 3
  %copied = call i32 (ptr, i64, ptr, ...) @snprintf(
    ptr %path, i64 4096, ptr @bessemer_plain, ptr %after
  )
  br label %close
close:
  %closed = call i32 @fclose(ptr %file)
  br label %none
none:
  ret void
}

; From the process's own group up to the root: the smallest quota on the way.
define hidden i64 @bessemer_group_limit() $baseline {
entry:
  %path = alloca [4096 x i8]
  %name = alloca [4224 x i8]
  %line = alloca [4096 x i8]
  %quota = alloca i64
  %period = alloca i64
  call void @bessemer_own_path(ptr %path)
  br label %next
next:
  %limit = phi i64 [ 1000000, %entry ], [ %least, %cut ]
  store i64 0, ptr %quota
  store i64 0, ptr %period
  %named = call i32 (ptr, i64, ptr, ...) @snprintf(
    ptr %name, i64 4224, ptr @bessemer_group_file, ptr %path
  )
  %found = call i1 @bessemer_first_line(ptr %name, ptr %line)
  %read = call i32 (ptr, ptr, ...) @sscanf(
    ptr %line, ptr @bessemer_two_numbers, ptr %quota, ptr %period
  )
  %q = load i64, ptr %quota
  %p = load i64, ptr %period
  %own = call i64 @bessemer_in_processors(i64 %q, i64 %p)
  %least = call i64 @llvm.smin.i64(i64 %limit, i64 %own)
  %slash = call ptr @strrchr(ptr %path, i32 47)
  %root = icmp eq ptr %slash, null
  br i1 %root, label %old, label %cut
cut:
  store i8 0, ptr %slash
  br label %next
old:
  store i64 0, ptr %quota
  store i64 0, ptr %period
  %f1 = call i1 @bessemer_first_line(ptr @bessemer_old_quota, ptr %line)
  %r1 = call i32 (ptr, ptr, ...) @sscanf(
    ptr %line, ptr @bessemer_two_numbers, ptr %quota, ptr %period
  )
  %f2 = call i1 @bessemer_first_line(ptr @bessemer_old_period, ptr %line)
  %r2 = call i32 (ptr, ptr, ...) @sscanf(
    ptr %line, ptr @bessemer_two_numbers, ptr %period, ptr %path
  )
  %oq = load i64, ptr %quota
  %op = load i64, ptr %period
  %older = call i64 @bessemer_in_processors(i64 %oq, i64 %op)
  %both = call i64 @llvm.smin.i64(i64 %least, i64 %older)
  ret i64 %both
}

define hidden i64 @bessemer_processors() $baseline {
  %allowed = call i64 @bessemer_allowed_processors()
  %limit = call i64 @bessemer_group_limit()
  %fewer = call i64 @llvm.smin.i64(i64 %allowed, i64 %limit)
  %some = call i64 @llvm.smax.i64(i64 %fewer, i64 1)
  %bounded = call i64 @llvm.smin.i64(i64 %some, i64 1024)
  ret i64 %bounded
}
"""

TEXT = _DECLARATIONS + "".join(c_string(*string) for string in _STRINGS.items()) + _CODE

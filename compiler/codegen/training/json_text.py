"""Functions that read JSON, as LLVM IR: they find a key of an object, and compare or read its
value.

A text is given by two pointers, to its begin and end, and need not end with a zero. Nothing is
allocated. A null pointer stands for a value that is missing, and for text that is not JSON.
"""

from __future__ import annotations

JSON = """
; Behind the blanks.
define internal ptr @bessemer_json_blank(ptr %from, ptr %end) $baseline {
entry:
  br label %next
next:
  %at = phi ptr [ %from, %entry ], [ %after, %step ]
  %over = icmp uge ptr %at, %end
  br i1 %over, label %done, label %look
look:
  %c = load i8, ptr %at
  %space = icmp eq i8 %c, 32
  %tab = icmp eq i8 %c, 9
  %line = icmp eq i8 %c, 10
  %return = icmp eq i8 %c, 13
  %a = or i1 %space, %tab
  %b = or i1 %line, %return
  %blank = or i1 %a, %b
  br i1 %blank, label %step, label %done
step:
  %after = getelementptr i8, ptr %at, i64 1
  br label %next
done:
  ret ptr %at
}

; Behind the string that begins with this quote.
define internal ptr @bessemer_json_string(ptr %from, ptr %end) $baseline {
entry:
  br label %next
next:
  %at = phi ptr [ %from, %entry ], [ %last, %more ]
  %now = getelementptr i8, ptr %at, i64 1
  %over = icmp uge ptr %now, %end
  br i1 %over, label %bad, label %look
look:
  %c = load i8, ptr %now
  %quote = icmp eq i8 %c, 34
  br i1 %quote, label %done, label %more
more:
  %escape = icmp eq i8 %c, 92
  %far = zext i1 %escape to i64
  %last = getelementptr i8, ptr %now, i64 %far
  br label %next
done:
  %after = getelementptr i8, ptr %now, i64 1
  ret ptr %after
bad:
  ret ptr null
}

; Behind a value: an array or object, or to the comma or bracket behind anything else.
define internal ptr @bessemer_json_value(ptr %from, ptr %end) $baseline {
entry:
  br label %next
next:
  %at = phi ptr [ %from, %entry ], [ %after, %step ]
  %depth = phi i64 [ 0, %entry ], [ %depth.after, %step ]
  %over = icmp uge ptr %at, %end
  br i1 %over, label %bad, label %look
look:
  %c = load i8, ptr %at
  %quote = icmp eq i8 %c, 34
  br i1 %quote, label %string, label %mark
string:
  %behind = call ptr @bessemer_json_string(ptr %at, ptr %end)
  %cut = icmp eq ptr %behind, null
  br i1 %cut, label %bad, label %step
mark:
  %brace = icmp eq i8 %c, 123
  %bracket = icmp eq i8 %c, 91
  %brace.end = icmp eq i8 %c, 125
  %bracket.end = icmp eq i8 %c, 93
  %comma = icmp eq i8 %c, 44
  %opens = or i1 %brace, %bracket
  %closes = or i1 %brace.end, %bracket.end
  %flat = icmp eq i64 %depth, 0
  %ends = or i1 %closes, %comma
  %stops = and i1 %flat, %ends
  br i1 %stops, label %here, label %count
here:
  ret ptr %at
count:
  %up = zext i1 %opens to i64
  %down = zext i1 %closes to i64
  %higher = add i64 %depth, %up
  %depth.now = sub i64 %higher, %down
  %beside = getelementptr i8, ptr %at, i64 1
  %level = icmp eq i64 %depth.now, 0
  %whole = and i1 %closes, %level
  br i1 %whole, label %done, label %step
done:
  ret ptr %beside
step:
  %after = phi ptr [ %behind, %string ], [ %beside, %count ]
  %depth.after = phi i64 [ %depth, %string ], [ %depth.now, %count ]
  br label %next
bad:
  ret ptr null
}

; Where the value of a key of this object begins; the key as JSON writes it.
define internal ptr @bessemer_json_find(
  ptr %object, ptr %end, ptr %key, i64 %length
) $baseline {
entry:
  %none = icmp eq ptr %object, null
  br i1 %none, label %bad, label %open
open:
  %first = call ptr @bessemer_json_blank(ptr %object, ptr %end)
  %empty = icmp uge ptr %first, %end
  br i1 %empty, label %bad, label %brace
brace:
  %b = load i8, ptr %first
  %is_object = icmp eq i8 %b, 123
  br i1 %is_object, label %next, label %bad
next:
  %before = phi ptr [ %first, %brace ], [ %comma.at, %comma ]
  %inside = getelementptr i8, ptr %before, i64 1
  %name = call ptr @bessemer_json_blank(ptr %inside, ptr %end)
  %over = icmp uge ptr %name, %end
  br i1 %over, label %bad, label %quote
quote:
  %q = load i8, ptr %name
  %is_name = icmp eq i8 %q, 34
  br i1 %is_name, label %string, label %bad
string:
  %name.end = call ptr @bessemer_json_string(ptr %name, ptr %end)
  %cut = icmp eq ptr %name.end, null
  br i1 %cut, label %bad, label %colon
colon:
  %colon.at = call ptr @bessemer_json_blank(ptr %name.end, ptr %end)
  %no_colon = icmp uge ptr %colon.at, %end
  br i1 %no_colon, label %bad, label %value
value:
  %behind = getelementptr i8, ptr %colon.at, i64 1
  %value.at = call ptr @bessemer_json_blank(ptr %behind, ptr %end)
  %no_value = icmp uge ptr %value.at, %end
  br i1 %no_value, label %bad, label %compare
compare:
  %from = ptrtoint ptr %name to i64
  %to = ptrtoint ptr %name.end to i64
  %whole = sub i64 %to, %from
  %size = sub i64 %whole, 2
  %as_long = icmp eq i64 %size, %length
  br i1 %as_long, label %letters, label %skip
letters:
  %text = getelementptr i8, ptr %name, i64 1
  %difference = call i32 @memcmp(ptr %text, ptr %key, i64 %length)
  %same = icmp eq i32 %difference, 0
  br i1 %same, label %found, label %skip
found:
  ret ptr %value.at
skip:
  %value.end = call ptr @bessemer_json_value(ptr %value.at, ptr %end)
  %damaged = icmp eq ptr %value.end, null
  br i1 %damaged, label %bad, label %separator
separator:
  %comma.at = call ptr @bessemer_json_blank(ptr %value.end, ptr %end)
  %last = icmp uge ptr %comma.at, %end
  br i1 %last, label %bad, label %comma
comma:
  %c = load i8, ptr %comma.at
  %goes_on = icmp eq i8 %c, 44
  br i1 %goes_on, label %next, label %bad
bad:
  ret ptr null
}

; Whether a text begins with this one, blanks aside.
define internal i1 @bessemer_json_is(ptr %from, ptr %end, ptr %wanted) $baseline {
entry:
  %none = icmp eq ptr %from, null
  br i1 %none, label %no, label %next
next:
  %at = phi ptr [ %from, %entry ], [ %beside, %same ]
  %text = phi ptr [ %wanted, %entry ], [ %text.after, %same ]
  %w = load i8, ptr %text
  %finished = icmp eq i8 %w, 0
  br i1 %finished, label %yes, label %look
look:
  %now = call ptr @bessemer_json_blank(ptr %at, ptr %end)
  %over = icmp uge ptr %now, %end
  br i1 %over, label %no, label %compare
compare:
  %c = load i8, ptr %now
  %equal = icmp eq i8 %c, %w
  br i1 %equal, label %same, label %no
same:
  %beside = getelementptr i8, ptr %now, i64 1
  %text.after = getelementptr i8, ptr %text, i64 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}

; The whole number that follows blanks and at most one bracket or comma, -1 where there is none.
; *after is where it ends.
define internal i64 @bessemer_json_number(ptr %from, ptr %end, ptr %after) $baseline {
entry:
  store ptr null, ptr %after
  %none = icmp eq ptr %from, null
  br i1 %none, label %bad, label %open
open:
  %first = call ptr @bessemer_json_blank(ptr %from, ptr %end)
  %empty = icmp uge ptr %first, %end
  br i1 %empty, label %bad, label %mark
mark:
  %m = load i8, ptr %first
  %bracket = icmp eq i8 %m, 91
  %comma = icmp eq i8 %m, 44
  %either = or i1 %bracket, %comma
  %far = zext i1 %either to i64
  %inside = getelementptr i8, ptr %first, i64 %far
  %begin = call ptr @bessemer_json_blank(ptr %inside, ptr %end)
  br label %next
next:
  %at = phi ptr [ %begin, %mark ], [ %beside, %digit ]
  %sum = phi i64 [ 0, %mark ], [ %more, %digit ]
  %count = phi i64 [ 0, %mark ], [ %counted, %digit ]
  %over = icmp uge ptr %at, %end
  br i1 %over, label %done, label %look
look:
  %c = load i8, ptr %at
  %low = sub i8 %c, 48
  %is_digit = icmp ult i8 %low, 10
  %short = icmp ult i64 %count, 18
  %good = and i1 %is_digit, %short
  br i1 %good, label %digit, label %done
digit:
  %wide = zext i8 %low to i64
  %tens = mul i64 %sum, 10
  %more = add i64 %tens, %wide
  %counted = add i64 %count, 1
  %beside = getelementptr i8, ptr %at, i64 1
  br label %next
done:
  store ptr %at, ptr %after
  %any = icmp ne i64 %count, 0
  %result = select i1 %any, i64 %sum, i64 -1
  ret i64 %result
bad:
  ret i64 -1
}
"""

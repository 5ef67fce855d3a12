"""The remainder of floats, exact for all of them: the machine has no instruction for it, and LLVM's
replacement is right for small quotients only.

As long as r >= b, r becomes |r - q b| for a q of 26 bits close to r / b. That is exact: q's last
bit is above all that one rounding of r can lose. A q that was too large turns the sign of the rest.
f32 goes through f64, where every remainder of f32 is exact.
"""

from __future__ import annotations

from bessemer.compiler.codegen.lanes import extract
from bessemer.compiler.codegen.math.math_terms import MathFunction
from bessemer.compiler.codegen.values import Value, type_text
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.types import DType, f64

SYMBOL = "bessemer_remainder"
_TEXT = f"""define internal double @{SYMBOL}(double %x, double %y) alwaysinline nounwind {{
entry:
  %first = call double @llvm.fabs.f64(double %x)
  %b = call double @llvm.fabs.f64(double %y)
  %finite = fcmp olt double %first, 0x7FF0000000000000
  %divides = fcmp ogt double %b, 0.0
  %good = and i1 %finite, %divides
  br i1 %good, label %test, label %done
test:
  %r = phi double [ %first, %entry ], [ %rest, %step ]
  %turned = phi i1 [ false, %entry ], [ %turns, %step ]
  %more = fcmp oge double %r, %b
  br i1 %more, label %step, label %end
step:
  %quotient = fdiv double %r, %b
  %huge = fcmp ogt double %quotient, 0x7E70000000000000
  %limited = select i1 %huge, double 0x7E70000000000000, double %quotient
  %bits = bitcast double %limited to i64
  %cut = and i64 %bits, -134217728
  %short = bitcast i64 %cut to double
  %q = call double @llvm.floor.f64(double %short)
  %minus = fneg double %q
  %left = call double @llvm.fma.f64(double %minus, double %b, double %r)
  %below = fcmp olt double %left, 0.0
  %rest = call double @llvm.fabs.f64(double %left)
  %turns = xor i1 %turned, %below
  br label %test
end:
  %some = fcmp ogt double %r, 0.0
  %back = and i1 %turned, %some
  %other = fsub double %b, %r
  %size = select i1 %back, double %other, double %r
  br label %done
done:
  %found = phi double [ 0x7FF8000000000000, %entry ], [ %size, %end ]
  %signed = call double @llvm.copysign.f64(double %found, double %x)
  ret double %signed
}}
"""
REMAINDER = MathFunction(
    SYMBOL,
    _TEXT,
    frozenset(
        {
            "declare double @llvm.fabs.f64(double)",
            "declare double @llvm.floor.f64(double)",
            "declare double @llvm.fma.f64(double, double, double)",
            "declare double @llvm.copysign.f64(double, double)",
        }
    ),
)


class DeviceWriter(Writer):
    """Writes what GPUs have no instruction for in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[str, MathFunction] = {}

    def operate(self, name: str, kind: DType, *operands: Value) -> Value:
        if name != "frem":
            return super().operate(name, kind, *operands)
        self.functions[SYMBOL] = REMAINDER
        a, b = operands
        lanes = a.lanes
        parts = [self._remainder(extract(self, a, k), extract(self, b, k)) for k in range(lanes)]
        if lanes == 1:
            return parts[0]
        vector = Value("poison", kind, lanes)
        for lane, part in enumerate(parts):
            text = f"insertelement {vector.typed}, {part.typed}, i64 {lane}"
            vector = self.compute(text, kind, lanes, max(vector.level, part.level))
        return vector

    def _remainder(self, a: Value, b: Value) -> Value:
        kind = a.kind
        wide = [
            x if kind is f64 else self.compute(f"fpext {x.typed} to double", f64, 1, x.level)
            for x in (a, b)
        ]
        found = self.call_function(SYMBOL, f64, 1, *wide)
        if kind is f64:
            return found
        text = f"fptrunc {found.typed} to {type_text(kind, 1)}"
        return self.compute(text, kind, 1, found.level)

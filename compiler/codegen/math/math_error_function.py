"""erf: an odd polynomial for |x| < 0.65, and 1 - erfc(|x|) above.

erfc falls like exp(-x^2), so a polynomial is fitted to log(erfc(x)); the smaller erfc is, the less
its error matters. Minimax fits as described in `math_exponential`, weighted by erfc / erf.
"""

from __future__ import annotations

from bessemer.compiler.codegen.math.math_exponential import scale_and_rest
from bessemer.compiler.codegen.math.math_tables import erf_by_table
from bessemer.compiler.codegen.math.math_terms import (
    Term,
    at_most,
    fma,
    polynomial,
    select,
    with_sign_of,
)

# Up to here the polynomials of erfc hold; from 3.92 (5.93) on erf is 1 in f32 (f64).
_LAST = {"f32": 3.95, "f64": 5.95}
# erf(x) / x - 1 in x^2, |x| <= 0.65; 2^-30.1 and 2^-56.0.
_ERF = {
    "f32": (0.12837916612625122, -0.3761262595653534, 0.11283507198095322, -0.02684287168085575,
            0.005135383922606707, -0.0006934860139153898),
    "f64": (0.12837916709551256, -0.37612638903183115, 0.11283791670911095, -0.026866170633298773,
            0.0052239774638109665, -0.0008548314338931023, 0.00012054726979000828,
            -1.4907722331177463e-05, 1.6140572067482023e-06, -1.312973664123903e-07),
}  # fmt: skip
# log(erfc(1 + t)) in t, 0.65 <= 1 + t <= _LAST; 2^-25.4 and 2^-57.4 of erf.
_LOG_ERFC = {
    "f32": (-1.8496055603027344, -2.638967514038086, -0.8431068062782288, -0.041561245918273926,
            0.010027343407273293, -0.00197265250608325, 0.00025890732649713755,
            -1.3665193364431616e-05),
    "f64": (-1.8496055099332482, -2.638967514234791, -0.8431072563584858, -0.04156109804656962,
            0.010033825434321159, -0.0019779030197309842, 0.00023732470597142172,
            2.6270354229629967e-05, -2.7141055415183116e-05, 9.577382475693239e-06,
            -2.0191230831364285e-06, 1.0374618966398357e-07, 1.2578344060688364e-07,
            -6.728718777914978e-08, 2.102197097310268e-08, -4.6483791876811885e-09,
            7.35951832501078e-10, -7.932121403595996e-11, 5.175250017488982e-12,
            -1.5227755116758814e-13),
}  # fmt: skip


def erf(x: Term) -> Term:
    if x.writer.has_lookup:
        return erf_by_table(x)
    size = at_most(abs(x), _LAST[x.kind])
    s, q = scale_and_rest(polynomial(size - 1.0, _LOG_ERFC[x.kind]))
    large = fma(s, -q, 1.0 - s)
    small = fma(size, polynomial(size * size, _ERF[x.kind]), size)
    return with_sign_of(select(size < 0.65, small, large), x)

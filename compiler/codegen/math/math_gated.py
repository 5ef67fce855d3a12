"""GELU, SiLU and mish: x times a gate that opens as x grows, each as one function.

GELU is max(x, 0) - h(|x|), where h(t) = t Phi(-t) is a small hump: nothing cancels where x is
negative, as it does in 1 + erf. What |x| takes is cut into 31 pieces, around k * step; the number
of the piece, rounded from |x| / step, picks the coefficients of a polynomial in what is left. In
the last piece, which has no end, h is below 1.2e-7 and counts as 0. The approximation of GELU by
tanh is the same with another hump. (Zen 5 starts two instructions of three operands in a cycle,
multiply-adds or lookups: there are eleven of them.)

Fits as described in `math_exponential`, relative errors of h 2^-23 and less up to |x| = 3, 2^-15 at
the end. A table has a tuple for every power.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.codegen.math.math_exponential import EXP, FORMATS, reduced, scale_and_rest
from bessemer.compiler.codegen.math.math_terms import (
    Term,
    at_least,
    at_most,
    fma,
    limited,
    looked_up,
    polynomial,
    scaled,
    select,
)

_STEP_BY_ERF, _STEP_BY_TANH = 23 / 128, 43 / 256
_LAST = 31.25  # steps: anywhere in the last piece
_BY_ERF = (
    (0.0, 0.07703184, 0.12925184, 0.15898132, 0.169731, 0.16574031, 0.15146469, 0.13110153,
     0.10822648, 0.0855798, 0.06500687, 0.047527537, 0.033491038, 0.022768967, 0.014945521,
     0.009477075, 0.005807895, 0.003441031, 0.0019715014, 0.0010925322, 0.000585696, 0.00030378724,
     0.00015246627, 7.404984e-05, 3.4805922e-05, 1.5833893e-05, 6.97189e-06, 2.9713972e-06,
     1.2258416e-06, 4.8953683e-07, 1.8924543e-07, 0.0),
    (0.5, 0.35816216, 0.22525331, 0.108949736, 0.014680786, -0.054920577, -0.10004531, -0.12326896,
     -0.12879345, -0.121569425, -0.106485486, -0.08776186, -0.06860791, -0.051134285, -0.036459215,
     -0.024929017, -0.01637447, -0.010345831, -0.006294169, -0.0036900425, -0.002086026,
     -0.001137697, -0.00059887464, -0.00030436894, -0.00014939919, -7.084166e-05, -3.2457498e-05,
     -1.4371685e-05, -6.1508713e-06, -2.544854e-06, -1.0179821e-06, 0.0),
    (-0.39894256, -0.38621715, -0.34984443, -0.29486912, -0.22853896, -0.15891676, -0.09343986,
     -0.037795015, 0.0047155465, 0.033192635, 0.04877744, 0.053930152, 0.05169089, 0.045044042,
     0.03647664, 0.027780563, 0.020044133, 0.0137666, 0.009030238, 0.0056708404, 0.0034154688,
     0.001975666, 0.0010987667, 0.0005880419, 0.00030306174, 0.00015049904, 7.204956e-05,
     3.3266308e-05, 1.4818785e-05, 6.370702e-06, 2.6439238e-06, 0.0),
    (1.6019072e-05, 0.046545744, 0.08652489, 0.11475714, 0.12834519, 0.12720366, 0.1136398,
     0.09163867, 0.065771446, 0.040317174, 0.018415093, 0.0018257708, -0.009029979, -0.0147193605,
     -0.016413793, -0.015455961, -0.013070586, -0.010195325, -0.007441341, -0.0051252064,
     -0.0033495952, -0.00208532, -0.0012400671, -0.0007058606, -0.00038520657, -0.00020179777,
     -0.00010158731, -4.9183807e-05, -2.2917602e-05, -1.0283504e-05, -4.445849e-06, 0.0),
    (0.06626746, 0.06181398, 0.048536666, 0.029637441, 0.008413735, -0.011123441, -0.025957514,
     -0.03425243, -0.03677556, -0.033411495, -0.026906451, -0.019004202, -0.011172047,
     -0.0047504473, -0.00016828314, 0.002606489, 0.0038457531, 0.004015714, 0.0035619447,
     0.00283903, 0.002086804, 0.0014323922, 0.00092712644, 0.000568716, 0.00033197747,
     0.00018484377, 9.8398006e-05, 5.017446e-05, 2.4532048e-05, 1.1517543e-05, 5.19547e-06, 0.0),
)  # fmt: skip
_BY_TANH = (
    (0.0, 0.07278178, 0.12378307, 0.15479939, 0.16857585, 0.16848385, 0.15815252, 0.14111479,
     0.120518595, 0.098933995, 0.07826531, 0.059757028, 0.044070177, 0.031400282, 0.021610297,
     0.014357445, 0.009200405, 0.005680292, 0.003374465, 0.0019261017, 0.0010546545, 0.0005530619,
     0.0002772775, 0.0001326644, 6.0464004e-05, 2.62019e-05, 1.0775626e-05, 4.1975763e-06,
     1.5458494e-06, 5.371668e-07, 1.7578468e-07, 0.0),
    (0.5, 0.36723894, 0.24183677, 0.13023117, 0.037188146, -0.03464615, -0.08483365, -0.11489117,
     -0.1277886, -0.12733006, -0.11754474, -0.102189295, -0.0844134, -0.06659573, -0.050324418,
     -0.036481205, -0.02538426, -0.01695191, -0.0108585395, -0.0066650966, -0.0039155385,
     -0.0021984219, -0.0011778463, -0.00060118025, -0.000291816, -0.0001344713, -5.87189e-05,
     -2.4252366e-05, -9.456904e-06, -3.4749319e-06, -1.200946e-06, 0.0),
    (-0.3989425, -0.38775375, -0.3555971, -0.30645904, -0.24615644, -0.18130538, -0.11826282,
     -0.062184, -0.016517613, 0.017222313, 0.039155476, 0.050691232, 0.053955678, 0.051337257,
     0.045103278, 0.037162434, 0.028950982, 0.021418612, 0.015080798, 0.010114184, 0.006461009,
     0.0039289426, 0.0022721344, 0.0012480543, 0.0006502254, 0.0003208197, 0.0001496661,
     6.590581e-05, 2.7347418e-05, 1.0674292e-05, 3.9121755e-06, 0.0),
    (1.34610655e-05, 0.043853287, 0.08219042, 0.1105248, 0.1262077, 0.12867962, 0.11950508,
     0.101727925, 0.07899229, 0.05496791, 0.03264429, 0.013980992, -7.647389e-05, -0.009420773,
     -0.014572553, -0.016384138, -0.015838362, -0.013861267, -0.011228891, -0.008509929,
     -0.0060674283, -0.004080469, -0.0025914034, -0.001554353, -0.00088013615, -0.00047008207,
     -0.00023656918, -0.00011203459, -4.9860704e-05, -2.0822401e-05, -8.147091e-06, 0.0),
    (0.06661945, 0.06273265, 0.05063285, 0.033187255, 0.013559497, -0.00568623, -0.020946871,
     -0.03167993, -0.035232015, -0.035378624, -0.03075046, -0.024430746, -0.017271364,
     -0.010553502, -0.0049185143, -0.00067185966, 0.0021369888, 0.0036064296, 0.0040957103,
     0.0038985945, 0.003311493, 0.0025720594, 0.0018484563, 0.0012382992, 0.00077504746,
     0.0004538041, 0.00024870597, 0.00012755582, 6.1181636e-05, 2.742216e-05, 1.1473224e-05, 0.0),
)  # fmt: skip


def gelu(x: Term) -> Term:
    """x Phi(x) = x (1 + erf(x / sqrt(2))) / 2"""
    return _without_hump(x, _STEP_BY_ERF, _BY_ERF)


def gelu_by_tanh(x: Term) -> Term:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2"""
    return _without_hump(x, _STEP_BY_TANH, _BY_TANH)


def _without_hump(x: Term, step: float, table: Sequence[Sequence[float]]) -> Term:
    magic = FORMATS[x.kind].magic
    size = limited(x, _LAST * step, keeps_sign=False)
    # The sum's low bits are the number of the piece, which is all that a lookup reads.
    shifted = fma(size, 1.0 / step, magic)
    rest = fma(shifted - magic, -step, size)
    hump = looked_up(table[-1], shifted.bits())
    for coefficients in reversed(table[:-1]):
        hump = fma(hump, rest, looked_up(coefficients, shifted.bits()))
    # A NaN, which the limit has lost, comes back by x.
    return select(x < 0.0, 0.0, x) - hump


def silu(x: Term) -> Term:
    """x / (1 + exp(-x)); the quotient is zero from where exp(-x) leaves f32."""
    form = FORMATS[x.kind]
    if x.writer.has_lookup:
        n, r, _ = reduced(-limited(x, form.log_largest + 1.0, keeps_sign=True))
        return x / (1.0 + scaled(fma(r, fma(r, polynomial(r, EXP[x.kind]), 1.0), 1.0), n))
    s, q = scale_and_rest(-at_most(at_least(x, form.log_smallest - 0.9), -form.log_smallest))
    whole = 1.0 + s
    # The sum has lost the 1 where s is large. What is left of a reciprocal then is flushed to zero.
    return x * (1.0 / (whole + fma(s, q, 1.0 - (whole - s))))


def mish(x: Term) -> Term:
    """x tanh(log(1 + e)) = x w / (w + 2), e = exp(x), w = (1 + e)^2 - 1."""
    form = FORMATS[x.kind]
    # Above, w and w + 2 are equal; below, 2^n has no exponent left and is zero.
    s, q = scale_and_rest(
        at_least(at_most(x, 0.5 * form.log_largest - 1.0), form.log_smallest - 0.9)
    )
    # Without multiply-adds a small s * q would be flushed to zero.
    e = fma(s, q, s) if x.writer.has_fma else s * (1.0 + q)
    w = fma(e, e, e + e)
    return x * (w / (w + 2.0))

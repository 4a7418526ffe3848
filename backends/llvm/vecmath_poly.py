"""The numbers behind the vector math functions: what depends on the floating-point format.

Polynomial coefficients go from the lowest power up. Each table is a minimax fit (Remez exchange in
60 digits) weighted so that the error is relative to the function that it serves. The leading
coefficients were rounded to the format one at a time and the rest refitted, so the figures hold for
the rounded table: a relative error below 2**-25 for f32 and 2**-53 for f64.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import llvmlite.ir as llir

_POLY_F32 = {
    # (exp(r) - 1 - r) / r**2, abs(r) <= log(2) / 2
    "exp": (
        0.49999994,
        0.16666517,
        0.041668106,
        0.00836914,
        0.0013836751,
    ),
    # (2**r - 1) / r, abs(r) <= 1/2
    "exp2": (
        0.69314724,
        0.24022655,
        0.055502724,
        0.009617063,
        0.001341819,
        0.00015820672,
    ),
    # (log(1 + f) - f + f**2 / 2) / f**3, sqrt(1/2) <= 1 + f <= sqrt(2)
    "log": (
        0.33333313,
        -0.25000167,
        0.20002224,
        -0.16659358,
        0.14209552,
        -0.12550035,
        0.12109556,
        -0.10913522,
        0.053322528,
    ),
    # (tanh(x) - x) / x**3 in x**2, abs(x) <= 0.6
    "tanh": (
        -0.333333,
        0.13331936,
        -0.053784717,
        0.020798625,
        -0.0058979676,
    ),
    # (sinh(x) - x) / x**3 in x**2, abs(x) <= 1
    "sinh": (
        0.16666667,
        0.0083333105,
        0.00019842896,
        2.7822132e-06,
    ),
    # erf(x) / x - 1 in x**2, abs(x) <= 0.93
    "erf": (
        0.12837915,
        -0.3761249,
        0.1128173,
        -0.026762916,
        0.004987255,
        -0.00059589924,
    ),
    # -log(erfc(x)) / x - 1, 0.92 <= x <= 4 (f32), 6 (f64)
    "erfc": (
        0.12851436,
        0.6357183,
        0.1052619,
        -0.02289001,
        0.0032149728,
        -0.00021398731,
    ),
    # (-1 - log2(Phi(-x))) / x, 0 <= x <= 6, Phi being the normal distribution's integral. The fit
    # is of x * Phi(-x): within 1e-9, and 2**-27 of it where x < 2. Beyond 6 it goes on to rise.
    "log2_tail": (
        1.1511043,
        0.4592214,
        0.05243142,
        -0.0069160243,
        -4.264829e-05,
        0.0003109083,
        -8.9411835e-05,
        1.4014965e-05,
        -1.237742e-06,
        4.816239e-08,
    ),
    # (sin(x) - x) / x**3 in x**2, abs(x) <= pi / 4
    "sin": (
        -0.16666655,
        0.008332191,
        -0.00019518599,
    ),
    # (cos(x) - 1 + x**2 / 2) / x**4 in x**2, abs(x) <= pi / 4
    "cos": (
        0.041666664,
        -0.001388821,
        2.4528383e-05,
    ),
    # (tan(x) - x) / x**3 in x**2, abs(x) <= pi / 4
    "tan": (
        0.33333352,
        0.13332583,
        0.05406865,
        0.02123861,
        0.010945539,
        -4.617756e-05,
        0.004441823,
    ),
    # (atan(x) - x) / x**3 in x**2, abs(x) <= 1
    "atan": (
        -0.33333302,
        0.19998626,
        -0.14265092,
        0.10956658,
        -0.084164575,
        0.058177967,
        -0.031394307,
        0.011028857,
        -0.001818683,
    ),
}

_POLY_F64 = {
    # (exp(r) - 1 - r) / r**2, abs(r) <= log(2) / 2
    "exp": (
        0.5000000000000011,
        0.1666666666666643,
        0.04166666666652566,
        0.008333333333479674,
        0.001388888894492447,
        0.00019841269546486785,
        2.4801491656196443e-05,
        2.755754381782662e-06,
        2.7630795445544793e-07,
        2.501567749472154e-08,
    ),
    # (2**r - 1) / r, abs(r) <= 1/2
    "exp2": (
        0.6931471805599457,
        0.240226506959101,
        0.05550410866478785,
        0.009618129107606179,
        0.0013333558153981167,
        0.00015403530441996844,
        1.5252726905616888e-05,
        1.3215443176569692e-06,
        1.0180840609913388e-07,
        7.072279497979117e-09,
        4.0482756736555917e-10,
    ),
    # (log((1 + s) / (1 - s)) - 2 * s) / s**3 in s**2, abs(s) <= 0.1716
    "log": (
        0.6666666666666735,
        0.3999999999940935,
        0.28571428743686617,
        0.2222219842896416,
        0.18183572355056157,
        0.1531383219043119,
        0.14798258120257168,
    ),
    # (tanh(x) - x) / x**3 in x**2, abs(x) <= 0.6
    "tanh": (
        -0.33333333333333126,
        0.13333333333299766,
        -0.05396825394933422,
        0.021869488003322522,
        -0.008863226786393015,
        0.003592037446014237,
        -0.00145521568697099,
        0.0005871894256433865,
        -0.0002303988197733603,
        7.931619925642048e-05,
        -1.7179817531604906e-05,
    ),
    # (sinh(x) - x) / x**3 in x**2, abs(x) <= 1
    "sinh": (
        0.16666666666666669,
        0.008333333333332912,
        0.0001984126984159341,
        2.755731910675593e-06,
        2.5052130999091693e-08,
        1.6056659105462476e-10,
        7.776603633139128e-13,
    ),
    # erf(x) / x - 1 in x**2, abs(x) <= 0.93
    "erf": (
        0.1283791670955125,
        -0.37612638903181417,
        0.1128379167084492,
        -0.026866170625164148,
        0.005223977440465583,
        -0.0008548317021517209,
        0.00012054995033769308,
        -1.4918285828781227e-05,
        1.6358243022788353e-06,
        -1.5442659890710276e-07,
        1.0002383815569439e-08,
    ),
    # -log(erfc(x)) / x - 1, 0.92 <= x <= 4 (f32), 6 (f64)
    "erfc": (
        0.12837920332893574,
        0.6366193431491545,
        0.10277499593416806,
        -0.019136793518699163,
        -0.0001887577555281802,
        0.001658873031782059,
        -0.0005373558369828414,
        -3.3151598036993247e-05,
        0.0001174325377352,
        -6.796115981340339e-05,
        2.5522535133029984e-05,
        -7.171524462426426e-06,
        1.565885016298868e-06,
        -2.668757537601215e-07,
        3.499346812506077e-08,
        -3.4172960520012607e-09,
        2.3428712631324387e-10,
        -1.006270236537449e-11,
        2.0366235060148305e-13,
    ),
    # (asin(x) - x) / x**3 in x**2, abs(x) <= 1/2
    "asin": (
        0.16666666666665383,
        0.07500000000342946,
        0.044642856823544054,
        0.030381959329166288,
        0.022371753566613608,
        0.01735977052333651,
        0.013884603711641906,
        0.012173247726630093,
        0.006510979605600856,
        0.019573584604996336,
        -0.01629360113599205,
        0.03195866071023203,
    ),
    # (atan(x) - x) / x**3 in x**2, abs(x) <= 1
    "atan": (
        -0.33333333333331994,
        0.19999999999774742,
        -0.14285714272350414,
        0.11111110705409025,
        -0.09090901655602109,
        0.0769221729235502,
        -0.06665891968979826,
        0.05877473960310243,
        -0.0523988397813902,
        0.046758823378308695,
        -0.04097032414443611,
        0.03414462818648779,
        -0.02592983457538025,
        0.017083114200164513,
        -0.009264543964726939,
        0.0038999686626486857,
        -0.001180583724174531,
        0.00022680550458876263,
        -2.0657620489026867e-05,
    ),
}


@dataclass(frozen=True)
class Format:
    """A floating-point format and the constants that depend on it."""

    name: str
    bits: int
    mantissa: int  # stored bits
    round_magic: float  # 1.5 * 2**mantissa: adding it rounds to an integer, kept in the low bits
    ln2_hi: float  # few enough bits for an exact product with any exponent
    ln2_lo: float
    log2e_minus_1: float
    pi_2_hi: float
    pi_2_lo: float
    exp_min: float  # exp of less is 0
    exp_max: float  # exp of more is inf, and so is half of it
    expm1_min: float  # expm1 of less is -1
    expm1_max: float  # expm1 of more is inf; less than half an exponent above the largest
    tanh_max: float  # tanh of more is 1
    erf_max: float  # erf of more is 1
    log_huge: float  # 1 is lost beside more than this
    poly: dict[str, tuple[float, ...]]

    @property
    def bias(self) -> int:
        """The exponent field of 1.0."""
        return (1 << (self.bits - self.mantissa - 2)) - 1

    @property
    def element(self) -> Any:
        """The LLVM type of one lane."""
        return llir.FloatType() if self.bits == 32 else llir.DoubleType()

    def pattern(self, value: float) -> int:
        """The bit pattern of `value` as a non-negative integer."""
        pack, unpack = ("<f", "<I") if self.bits == 32 else ("<d", "<Q")
        return int(struct.unpack(unpack, struct.pack(pack, value))[0])


F32 = Format(
    name="f32",
    bits=32,
    mantissa=23,
    round_magic=1.5 * 2**23,
    ln2_hi=355 / 512,
    ln2_lo=math.log(2) - 355 / 512,
    log2e_minus_1=1 / math.log(2) - 1,
    pi_2_hi=1.57079637050628662109375,
    pi_2_lo=math.pi / 2 - 1.57079637050628662109375,
    exp_min=-104.0,
    exp_max=90.0,
    expm1_min=-20.0,
    expm1_max=89.0,
    tanh_max=10.0,
    erf_max=4.0,
    log_huge=2.0**96,
    poly=_POLY_F32,
)
F64 = Format(
    name="f64",
    bits=64,
    mantissa=52,
    round_magic=1.5 * 2**52,
    ln2_hi=float.fromhex("0x1.62e42feep-1"),
    ln2_lo=float.fromhex("0x1.a39ef35793c76p-33"),
    log2e_minus_1=float.fromhex("0x1.c551d94ae0bf8p-2"),
    pi_2_hi=math.pi / 2,
    pi_2_lo=float.fromhex("0x1.1a62633145c07p-54"),
    exp_min=-746.0,
    exp_max=711.0,
    expm1_min=-40.0,
    expm1_max=710.0,
    tanh_max=20.0,
    erf_max=6.0,
    log_huge=2.0**600,
    poly=_POLY_F64,
)


_TWO_OVER_PI = 0x517CC1B727220A94FE13ABE8FA9A6EE06DB14ACC9E21C820FF3  # floor(2 / pi * 2**203)
TWO_OVER_PI_PARTS = tuple(  # times a 24-bit significand, each of 29 bits is exact in f64
    float(_TWO_OVER_PI >> (29 * (6 - i)) & (2**29 - 1)) * 2.0 ** (-29 * (i + 1)) for i in range(7)
)

"""Transcendental functions as arithmetic, so that a loop over them becomes vector instructions and calls nothing.

Every function takes and returns scalar float32 expressions, is free of branches, and stays within a few units in the
last place of the true value; NaN propagates, and the ends (overflow, underflow, infinities) are those of C's libm. For
float64 they fall back on libm.

An intermediate value that is used more than once is bound by `let`, which does two things: the expression stays small,
and TVM's simplifier, which treats floats as reals and turns (x + 1) - 1 into x, cannot see through it.

Sources: the Cephes Mathematical Library (S. Moshier, single precision: expf.c, logf.c, sinf.c); the rational tanh
(also onnxruntime's) and erf of Eigen; range reduction after W. J. Cody and W. Waite, "Software Manual for the
Elementary Functions", 1980.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx

Function = Callable[[tirx.Expr], tirx.Expr]

LOG2_E = 1.44269504088896341
LN_2 = 0.693147180559945309
# ln 2 in two parts: the first has few enough bits that n * LN_2_HIGH is exact for every exponent n.
LN_2_HIGH = 0.693359375
LN_2_LOW = -2.12194440e-4
SQRT_HALF_BITS = 0x3F3504F3
MANTISSA_BITS = 23
EXPONENT_BIAS = 127


def f32(value: float) -> tirx.Expr:
    """A float32 constant."""
    return tirx.const(value, "float32")


def is_double(x: tirx.Expr) -> bool:
    """Whether an expression is a float64, which goes to libm."""
    return str(x.expr_ty()) == "float64"


def let(value: tirx.Expr, body: Function) -> tirx.Expr:
    """The expression `body` of a value that is computed once."""
    if isinstance(value, tirx.Var | tirx.FloatImm | tirx.IntImm):
        return body(value)
    variable = tirx.Var("t", str(value.expr_ty()))
    return tirx.Let(variable, value, body(variable))


def polynomial(x: tirx.Expr, coefficients: Sequence[float]) -> tirx.Expr:
    """Horner's scheme, the coefficient of the highest power first."""
    result = f32(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + f32(coefficient)
    return result


def nearest_integer(x: tirx.Expr) -> tirx.Expr:
    """A float32 rounded to an int32, halves to even; any value where it is out of range or NaN."""
    return tirx.call_llvm_pure_intrin("int32", "llvm.lrint", x)


def clamp(x: tirx.Expr, low: float, high: float) -> tirx.Expr:
    """`x` within [low, high]; NaN stays NaN, because every comparison with it is false."""
    return let(
        let(x, lambda v: tirx.Select(v > f32(high), f32(high), v)), lambda v: tirx.Select(v < f32(low), f32(low), v)
    )


def _power_of_two(exponent: tirx.Expr) -> tirx.Expr:
    """2 ** exponent for an int32 in the range of normal numbers, by writing the exponent's bits."""
    return tirx.reinterpret("float32", (exponent + tirx.const(EXPONENT_BIAS, "int32")) << MANTISSA_BITS)


def _scale(x: tirx.Expr, exponent: tirx.Expr) -> tirx.Expr:
    """X * 2 ** exponent in two factors, so that results reach infinity and the denormals."""

    def halves(n: tirx.Expr) -> tirx.Expr:
        return let(n >> 1, lambda half: x * _power_of_two(half) * _power_of_two(n - half))

    return let(exponent, halves)


def _exp_reduced(r: tirx.Expr) -> tirx.Expr:
    """exp(r) for |r| <= ln(2) / 2 (Cephes expf)."""
    coefficients = (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
    return let(r, lambda v: polynomial(v, coefficients) * (v * v) + v + f32(1))


def exp(x: tirx.Expr) -> tirx.Expr:
    """E ** x = 2 ** n * e ** r, with n = round(x / ln 2) and r = x - n ln 2."""
    if is_double(x):
        return tirx.exp(x)

    def reduced(v: tirx.Expr) -> tirx.Expr:
        return let(
            tirx.floor(v * f32(LOG2_E) + f32(0.5)),
            lambda n: _scale(
                _exp_reduced(let(v - n * f32(LN_2_HIGH), lambda r: r - n * f32(LN_2_LOW))), n.astype("int32")
            ),
        )

    # Beyond these the result is 0 and infinity; within them the exponent fits the two factors of _scale.
    return let(clamp(x, -104.0, 88.8), reduced)


def exp2(x: tirx.Expr) -> tirx.Expr:
    """2 ** x."""
    if is_double(x):
        return tirx.exp2(x)
    return let(
        clamp(x, -150.5, 128.5),
        lambda v: let(
            tirx.floor(v + f32(0.5)),
            lambda n: _scale(_exp_reduced((v - n) * f32(LN_2)), n.astype("int32")),
        ),
    )


def log(x: tirx.Expr) -> tirx.Expr:
    """The natural logarithm: x = 2 ** e * m with m in [sqrt(1/2), sqrt(2)), then Cephes' polynomial in m - 1."""
    if is_double(x):
        return tirx.log(x)
    coefficients = (
        *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
        *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
    )

    def combined(f: tirx.Expr, e: tirx.Expr) -> tirx.Expr:
        return let(
            f * f,
            lambda z: f + (polynomial(f, coefficients) * f * z + e * f32(LN_2_LOW) - f32(0.5) * z) + e * f32(LN_2_HIGH),
        )

    def finite(v: tirx.Expr, scaled_by: tirx.Expr) -> tirx.Expr:
        def split(bits: tirx.Expr) -> tirx.Expr:
            exponent = (bits - tirx.const(SQRT_HALF_BITS, "int32")) >> MANTISSA_BITS
            return let(
                exponent,
                lambda e: let(
                    tirx.reinterpret("float32", bits - (e << MANTISSA_BITS)) - f32(1),
                    lambda f: let(e.astype("float32") - scaled_by, lambda e: combined(f, e)),
                ),
            )

        return let(tirx.reinterpret("int32", v), split)

    def ends(v: tirx.Expr) -> tirx.Expr:
        denormal = v < f32(2.0**-126)
        normal = let(
            tirx.Select(denormal, v * f32(2.0**MANTISSA_BITS), v),
            lambda w: finite(w, tirx.Select(denormal, f32(MANTISSA_BITS), f32(0))),
        )
        at_zero = tirx.Select(v == f32(0), f32(-math.inf), f32(math.nan))
        # Infinity and NaN answer themselves.
        return tirx.Select(
            v > f32(0), tirx.Select(v < f32(math.inf), normal, v), tirx.Select(tirx.isnan(v), v, at_zero)
        )

    return let(x, ends)


def log1p(x: tirx.Expr) -> tirx.Expr:
    """ln(1 + x) with the rounding error of 1 + x put back: ln(w) + (x - (w - 1)) / w, w = 1 + x (Kahan)."""
    if is_double(x):
        return tirx.log1p(x)

    def corrected(v: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
        usable = tirx.all(w > f32(0), w < f32(math.inf))
        error = let(w - f32(1), lambda rounded: (v - rounded) / w)
        return log(w) + tirx.Select(usable, error, f32(0))

    return let(x, lambda v: let(v + f32(1), lambda w: corrected(v, w)))


def sigmoid(x: tirx.Expr) -> tirx.Expr:
    """1 / (1 + exp(-x))."""
    one = tirx.const(1, str(x.expr_ty()))
    return one / (one + exp(-x))


def tanh(x: tirx.Expr) -> tirx.Expr:
    """X P(x^2) / Q(x^2), on the range outside which the result rounds to +-1."""
    if is_double(x):
        return tirx.tanh(x)
    numerator = (
        *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
        *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
    )
    denominator = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
    ratio = let(
        clamp(x, -9.0, 9.0),
        lambda v: let(v * v, lambda z: v * polynomial(z, numerator) / polynomial(z, denominator)),
    )
    return clamp(ratio, -1.0, 1.0)


def erf(x: tirx.Expr) -> tirx.Expr:
    """The error function: x P(x^2) / Q(x^2), and exactly 1 from 3.83 on, where float32 has no nearer number.

    A third of the operations of a polynomial near zero beside an exponential elsewhere, for which both are computed.
    """
    if is_double(x):
        return tirx.call_pure_extern("float64", "erf", x)
    above = (
        *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
        *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
    )
    below = (
        *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03),
        -1.42647390514189e-02,
    )

    def ratio(v: tirx.Expr) -> tirx.Expr:
        # The quotient first: x P would lose the last places of a tiny x.
        return let(v * v, lambda z: v * (polynomial(z, above) / polynomial(z, below)))

    def whole(v: tirx.Expr) -> tirx.Expr:
        near, end, one = clamp(ratio(v), -1.0, 1.0), f32(3.832506856900711), f32(1)
        return tirx.Select(v > end, one, tirx.Select(v < -end, -one, near))

    return let(x, whole)


def softplus(x: tirx.Expr) -> tirx.Expr:
    """ln(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), which overflows nowhere."""
    zero = tirx.const(0, str(x.expr_ty()))
    return let(x, lambda v: tirx.Select(v < zero, zero, v) + log1p(exp(-tirx.abs(v))))


def _quadrant(x: tirx.Expr, body: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr]) -> tirx.Expr:
    """`body(sin r, cos r, q)` where x = q pi/2 + r and |r| <= pi/4.

    The reduction is done in float64, which keeps r right to float32's last place up to |x| of about 1e8 at the cost of
    a few instructions; three float32 constants (Cody-Waite) would do up to 1e4. Far beyond, the result is meaningless
    but within [-1, 1].
    """

    def double(value: float) -> tirx.Expr:
        return tirx.const(value, "float64")

    sine = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
    cosine = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)

    def reduced(r: tirx.Expr, q: tirx.Expr) -> tirx.Expr:
        return let(
            r * r,
            lambda z: let(
                polynomial(z, sine) * z * r + r,
                lambda s: let(
                    polynomial(z, cosine) * (z * z) - f32(0.5) * z + f32(1),
                    lambda c: body(s, c, q),
                ),
            ),
        )

    return let(
        x.astype("float64"),
        lambda v: let(
            tirx.floor(v * double(2 / math.pi) + double(0.5)),
            lambda n: let(
                clamp((v - n * double(math.pi / 2)).astype("float32"), -1.0, 1.0),
                lambda r: let(n.astype("int32"), lambda q: reduced(r, q)),
            ),
        ),
    )


def sin(x: tirx.Expr) -> tirx.Expr:
    """The sine of an angle in radians."""
    if is_double(x):
        return tirx.sin(x)

    def value(s: tirx.Expr, c: tirx.Expr, q: tirx.Expr) -> tirx.Expr:
        return let(tirx.Select((q & 1) == 1, c, s), lambda v: tirx.Select((q & 2) == 2, -v, v))

    return _quadrant(x, value)


def cos(x: tirx.Expr) -> tirx.Expr:
    """The cosine of an angle in radians: a quarter turn ahead of the sine."""
    if is_double(x):
        return tirx.cos(x)

    def value(s: tirx.Expr, c: tirx.Expr, q: tirx.Expr) -> tirx.Expr:
        return let(tirx.Select((q & 1) == 1, s, c), lambda v: tirx.Select(((q + 1) & 2) == 2, -v, v))

    return _quadrant(x, value)


def tan(x: tirx.Expr) -> tirx.Expr:
    """The tangent of an angle in radians."""
    if is_double(x):
        return libm("tan", x)
    return _quadrant(x, lambda s, c, q: tirx.Select((q & 1) == 1, -c / s, s / c))


def power(x: tirx.Expr, exponent: float) -> tirx.Expr:
    """X ** exponent for an exponent known at compile time: multiplications and roots where they do, else libm."""
    dtype = str(x.expr_ty())
    one = tirx.const(1, dtype)
    if exponent < 0 and (exponent.is_integer() or exponent == -0.5):
        return one / power(x, -exponent)
    if exponent == 0.5:
        return tirx.sqrt(x)
    if exponent.is_integer() and exponent <= 16:
        return let(x, lambda v: _integer_power(v, int(exponent)))
    return libm("pow", x, tirx.const(exponent, dtype))


def _integer_power(x: tirx.Expr, exponent: int) -> tirx.Expr:
    """Repeated squaring."""
    if exponent == 0:
        return tirx.const(1, str(x.expr_ty()))
    if exponent == 1:
        return x
    square = let(_integer_power(x, exponent // 2), lambda v: v * v)
    return square * x if exponent % 2 else square


def libm(name: str, *arguments: tirx.Expr) -> tirx.Expr:
    """A call of C's libm per element: for functions too rare to be worth a polynomial. `name` is the float64 one's."""
    dtype = str(arguments[0].expr_ty())
    return tirx.call_pure_extern(dtype, name if dtype == "float64" else f"{name}f", *arguments)

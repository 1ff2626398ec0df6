"""Vector functions against numpy in float64: accuracy, the ends, and that nothing is called."""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import pytest
import tvm
from tvm import tirx

import lepton_compile.lowering  # noqa: F401  (the kernels import Layout from this package, which imports the kernels)
from lepton_compile.kernels import vector_math
from lepton_compile.kernels.expressions import vector_store
from lepton_compile.kernels.loops import function, load, parameter, serial, store

LANES, LENGTH = 16, 4096
REFERENCES = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log1p": np.log1p,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf),
    "softplus": lambda x: np.logaddexp(0, x),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
}
TRIGONOMETRIC = ("sin", "cos", "tan")
TINY = float(np.finfo(np.float32).tiny)


@cache
def built(name: str) -> tvm.runtime.Module:
    """A kernel that applies one function to a vector at a time."""
    x, y = parameter("x", [LENGTH], "float32"), parameter("y", [LENGTH], "float32")
    apply = getattr(vector_math, name)

    def vector(block: tirx.Expr) -> tirx.Stmt:
        def value(lane: tirx.Expr) -> tirx.Expr:
            return apply(load(x, [block * LANES + lane]))

        def put(lane: tirx.Expr, v: tirx.Expr) -> tirx.Stmt:
            return store(y, [block * LANES + lane], v)

        return vector_store(LANES, value, put)

    body = serial(LENGTH // LANES, vector)
    kernel = function([x, y], body).with_attr("global_symbol", "kernel")
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"})
    return tirx.build(tirx.transform.StmtSimplify()(tvm.IRModule({"kernel": kernel})), target)


def applied(name: str, x: np.ndarray) -> np.ndarray:
    padded = np.zeros(LENGTH, np.float32)
    padded[: x.size] = x
    result = tvm.runtime.empty([LENGTH], "float32")
    built(name)["kernel"](tvm.runtime.tensor(padded), result)
    return result.numpy()[: x.size]


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1, 5, 20, 100])
@pytest.mark.parametrize("name", REFERENCES)
def test_relative_error(rng, name, scale):
    x = (rng.standard_normal(LENGTH) * scale).astype(np.float32)
    x = np.abs(x) if name.startswith("log") else x
    wanted = REFERENCES[name](x.astype(np.float64))
    usable = (np.abs(wanted) < np.finfo(np.float32).max) & (np.abs(wanted) > TINY)
    # Near a zero of a periodic function the argument's own rounding is the error.
    floor = 1e-4 if name in TRIGONOMETRIC else 0.0
    error = np.abs(applied(name, x) - wanted)[usable] / np.maximum(np.abs(wanted), floor)[usable]
    assert error.max() < 1e-6


@pytest.mark.parametrize("name", REFERENCES)
def test_ends(name):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, 3e38, -3e38, 88.72, 88.73, -104.0, 127.9, 128.0, -150.0], np.float32)
    x = x[np.abs(np.nan_to_num(x)) < 1e30] if name in TRIGONOMETRIC else x
    with np.errstate(all="ignore"):
        wanted = REFERENCES[name](x.astype(np.float64)).astype(np.float32)
    actual = applied(name, x)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(wanted))
    np.testing.assert_allclose(actual, wanted, rtol=1e-6, atol=TINY)


def test_erf_ends_at_one():
    """So that GELU of a large negative number is zero, and of minus infinity NaN, as it is elsewhere."""
    x = np.array([3.84, 4.5, 100, np.inf, -3.84, -100, -np.inf], np.float32)
    np.testing.assert_array_equal(applied("erf", x), np.sign(x))


def test_exp_and_log_of_denormals():
    x = np.array([-88.0, -95.0, -103.0], np.float32)
    np.testing.assert_allclose(applied("exp", x), np.exp(x.astype(np.float64)), rtol=1e-6, atol=1.5e-45)
    y = np.array([1e-40, 3e-45, TINY], np.float32)
    np.testing.assert_allclose(applied("log", y), np.log(y.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_large_angles(rng, name):
    x = rng.uniform(-1e7, 1e7, 1000).astype(np.float32)
    np.testing.assert_allclose(applied(name, x), REFERENCES[name](x.astype(np.float64)), rtol=1e-6, atol=1e-6)


def test_sine_of_huge_angles_stays_in_range():
    assert np.all(np.abs(applied("sin", np.array([3e38, -1e30, 1e20], np.float32))) <= 1.0)


@pytest.mark.parametrize("name", REFERENCES)
def test_nothing_is_called(name):
    called = set(re.findall(r"call [^@\n]*@(?:llvm\.)?(\w+)", built(name).inspect_source("ll")))
    libm = {"exp", "exp2", "log", "log1p", "expm1", "tanh", "erf", "sin", "cos", "tan", "pow"}
    assert not called & (libm | {f"{other}f" for other in libm})


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 7, 16, -1, -3, 0.5, -0.5, 1.75])
def test_powers(rng, exponent):
    x = tirx.Var("x", "float32")
    assert ("powf" in str(vector_math.power(x, float(exponent)))) == (exponent == 1.75)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)

import pytest

from lepton_compile.rewriting.polynomial import polynomial


@pytest.fixture
def read(graph):
    """The polynomial that `body` computes as y, with the tensor x and the function that finds others by name."""

    def of(body, constants=""):
        model = graph(f"main (float[3] x, float[3] z) => (float[3] y) <float half = {{0.5}}{constants}> {{ {body} }}")
        tensors = model.gs.tensors()
        return polynomial(tensors["y"]), tensors["x"], tensors

    return of


@pytest.mark.parametrize(
    "body",
    [
        "g = Erf (x)  a = Mul (x, half)  b = Mul (g, a)  c = Mul (half, x)  y = Add (c, b)",
        "g = Erf (x)  a = Add (g, one)  b = Mul (x, a)  y = Mul (b, half)",
        "g = Erf (x)  a = Add (one, g)  b = Mul (half, a)  y = Mul (b, x)",
        "g = Erf (x)  a = Mul (g, half)  b = Add (a, half)  y = Mul (x, b)",
        "g = Erf (x)  a = Add (g, one)  b = Mul (x, a)  y = Div (b, two)",
        "g = Erf (x)  a = Neg (g)  b = Sub (a, one)  c = Mul (x, b)  d = Neg (c)  y = Div (d, two)",
    ],
)
def test_spellings_of_one_formula(read, body):
    found, x, tensors = read(body, ", float one = {1}, float two = {2}")
    assert found.equals((0.5, (x,)), (0.5, (tensors["g"], x)))
    assert not found.equals((0.5, (x,)), (0.51, (tensors["g"], x)))
    assert not found.equals((0.5, (x,)))
    assert {node.op for node in found.nodes}.isdisjoint({"Erf"})


def test_powers(read):
    found, x, _ = read("a = Mul (x, x)  b = Pow (x, two)  c = Mul (a, b)  y = Sub (half, c)", ", float two = {2}")
    assert found.equals((0.5, ()), (-1.0, (x, x, x, x)))


def test_what_is_read_twice_is_a_symbol(read):
    found, _, tensors = read("a = Add (x, half)  b = Mul (a, a)  y = Add (b, half)")
    assert found.equals((1.0, (tensors["a"], tensors["a"])), (0.5, ()))


@pytest.mark.parametrize("body", ["y = Div (half, x)", "y = Pow (x, half)", "y = Pow (half, x)", "y = Div (x, zero)"])
def test_what_is_no_polynomial_is_a_symbol(read, body):
    found, _, tensors = read(body, ", float zero = {0}")
    assert found.symbols == (tensors["y"],)
    assert not found.nodes


def test_large_ones_are_left_alone(read):
    body = " ".join(f"s{i} = Add ({'x' if i == 0 else f'p{i - 1}'}, z)  p{i} = Mul (s{i}, half)" for i in range(300))
    found, _, _ = read(f"{body} y = Add (p299, z)")
    assert found is not None and len(found.nodes) < 10
    found, _, _ = read(
        "a = Add (x, z)  b = Add (x, half)  c = Add (z, x)  d = Mul (a, b)  e = Mul (d, c)  y = Mul (e, x)"
    )
    assert found is None or len(found.terms) <= 8

"""Branches that do not fit the shapes that were bound."""

import numpy as np
import pytest

from lepton_compile.errors import ShapeError
from lepton_compile.model import import_model

# One branch is for an input of 6, the other for one of 4.
TWO_RATES = """g (bool fast, float[n] x) => (float[2] y)
    <int64[2] a = {2, 3}, int64[2] b = {2, 2}, int64[1] axes = {1}> {
    [choice] y = If (fast) <
        then_branch = t () => (float[2] p) { u = Reshape (x, a) p = ReduceSum <keepdims = 0> (u, axes) },
        else_branch = e () => (float[2] q) { v = Reshape (x, b) q = ReduceMax <keepdims = 0> (v, axes) }>
}"""


@pytest.mark.parametrize(("size", "works", "expected"), [(6, True, [3, 12]), (4, False, [1, 3])])
def test_the_branch_that_cannot_work_gives_nan(parse, size, works, expected):
    graph = import_model(parse(TWO_RATES), {"x": [size]})
    x = np.arange(size, dtype=np.float32)
    assert graph.run({"fast": np.array(works), "x": x})["y"].tolist() == expected
    assert np.isnan(graph.run({"fast": np.array(not works), "x": x})["y"]).all()
    (note,) = graph.notes
    assert "'choice'" in note and ("else_branch" if works else "then_branch") in note and "Reshape" in note
    assert graph.copy().notes == graph.notes


def test_no_branch_that_works_is_an_error(parse):
    with pytest.raises(ShapeError, match=r"\(Reshape\)"):
        import_model(parse(TWO_RATES), {"x": [5]})


def test_integers_have_no_nan(parse):
    text = TWO_RATES.replace("float[2]", "int64[2]").replace("float[n]", "int64[n]")
    with pytest.raises(ShapeError, match=r"\(Reshape\)"):
        import_model(parse(text), {"x": [4]})

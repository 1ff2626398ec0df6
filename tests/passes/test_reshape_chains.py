from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_compile.passes.reshape_chains import ReshapeChains


def test_a_chain_becomes_one(rewriting, declines):
    graph = rewriting.graph("""
        main (float[1,4,1,1] x) => (float[2,2] y) <int64[2] shape = {2,2}> {
            a = Flatten (x)
            y = Reshape (a, shape)
        }""")
    result = rewriting.rewritten(ReshapeChains(), graph)
    assert rewriting.operators(result) == ["Reshape"]
    declines(ReshapeChains(), result)


def test_a_pair_that_cancels_disappears(rewriting):
    graph = rewriting.graph("""
        main (float[2,3] x) => (float[2,3] y) <int64[1] axis = {0}> {
            a = Relu (x)
            b = Unsqueeze (a, axis)
            c = Squeeze (b, axis)
            y = Neg (c)
        }""")
    assert rewriting.operators(rewriting.rewritten(ReshapeChains(), graph)) == ["Relu", "Neg"]


def test_a_transpose_of_axes_of_size_one_is_a_reshape(rewriting, declines):
    text = """
        main (float[1,{n},3] x) => (float[{m},3] y) <int64[1] axis = {{1}}, int64[2] shape = {{-1,3}}> {{
            a = Transpose <perm=[1,0,2]> (x)
            y = Reshape (a, shape)
        }}"""
    result = rewriting.rewritten(ReshapeChains(), rewriting.graph(text.format(n=4, m=4)))
    assert rewriting.operators(result) == ["Reshape"]
    moving = text.replace("float[1,", "float[2,").format(n=4, m=8)
    declines(ReshapeChains(), rewriting.graph(moving))


def test_empty_tensors_are_left_alone(rewriting, declines):
    graph = rewriting.graph("""
        main (float[0,3] x) => (float[1,3,0] y) <int64[1] axis = {0}, int64[2] shape = {3,0}> {
            a = Reshape <allowzero=1> (x, shape)
            y = Unsqueeze (a, axis)
        }""")
    declines(ReshapeChains(), graph)


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.sampled_from([(24,), (2, 12), (4, 3, 2), (1, 24), (2, 3, 4), (6, 1, 4)]), min_size=2, max_size=5)
)
def test_any_chain(rewriting, shapes):
    constants = ", ".join(
        f"int64[{len(shape)}] s{i} = {{{', '.join(map(str, shape))}}}" for i, shape in enumerate(shapes)
    )
    names = ["a", *(f"r{i}" for i in range(len(shapes)))]
    lines = [f"{names[i + 1]} = Reshape ({names[i]}, s{i})" for i in range(len(shapes))]
    graph = rewriting.graph(
        f"main (float[2,3,4] x) => (float{list(shapes[-1])} y) <{constants}>"
        f"{{ a = Relu (x)  {' '.join(lines)}  y = Neg ({names[-1]}) }}"
    )
    result = rewriting.rewritten(ReshapeChains(), graph)
    assert rewriting.operators(result).count("Reshape") <= 1

from lepton_compile.passes.common_subexpressions import CommonSubexpressions


def test_merges_whole_equal_chains(rewriting, declines):
    graph = rewriting.graph("""
        main (float[2,3] x) => (float[2,3] y) <float[1] one = {1}, float[1] also_one = {1}> {
            a = Add (x, one)
            b = Add (x, also_one)
            c = Relu (a)
            d = Relu (b)
            y = Mul (c, d)
        }""")
    result = rewriting.rewritten(CommonSubexpressions(), graph)
    assert rewriting.operators(result) == ["Add", "Relu", "Mul"]
    declines(CommonSubexpressions(), result)


def test_tells_attributes_and_order_apart(rewriting, declines):
    graph = rewriting.graph("""
        main (float[2,2] x, float[2,2] z) => (float[2,2] y) {
            a = Transpose <perm=[1,0]> (x)
            b = Transpose <perm=[0,1]> (x)
            c = Sub (x, z)
            d = Sub (z, x)
            e = Sum (a, b, c, d)
            y = Identity (e)
        }""")
    declines(CommonSubexpressions(), graph)


def test_keeps_the_name_of_an_output(rewriting):
    graph = rewriting.graph("""
        main (float[3] x) => (float[3] y, float[3] z) {
            a = Relu (x)
            y = Relu (x)
            z = Neg (a)
        }""")
    result = rewriting.rewritten(CommonSubexpressions(), graph)
    assert rewriting.operators(result) == ["Relu", "Neg"]


def test_two_outputs_stay_two(rewriting, declines):
    graph = rewriting.graph("""
        main (float[3] x) => (float[3] y, float[3] z) {
            y = Relu (x)
            z = Relu (x)
        }""")
    assert "'z' and 'y' are both outputs" in declines(CommonSubexpressions(), graph).refusals[0]


def test_random_numbers_are_not_the_same(rewriting, declines):
    graph = rewriting.graph("""
        main () => (float[3] y) {
            a = RandomNormal <shape=[3]> ()
            b = RandomNormal <shape=[3]> ()
            y = Sub (a, b)
        }""")
    declines(CommonSubexpressions(), graph)


def test_branches_are_scopes_of_their_own(rewriting):
    graph = rewriting.graph("""
        main (bool c, float[3] x) => (float[3] y) {
            y = If (c) <
                then_branch = yes () => (float[3] p) { a = Relu (x)  b = Relu (x)  p = Add (a, b) },
                else_branch = no () => (float[3] q) { e = Relu (x)  q = Neg (e) }
            >
        }""")
    result = rewriting.rewritten(CommonSubexpressions(), graph)
    assert rewriting.operators(result) == ["If", "Relu", "Add", "Relu", "Neg"]

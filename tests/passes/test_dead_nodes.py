from lepton_compile.passes.dead_nodes import DeadNodes


def test_removes_what_no_output_depends_on(rewriting, declines):
    graph = rewriting.graph("""
        main (float[2,3] x) => (float[2,3] y) {
            a = Relu (x)
            b = Exp (a)
            c = Log (b)
            y = Neg (a)
        }""")
    result = rewriting.rewritten(DeadNodes(), graph)
    assert rewriting.operators(result) == ["Relu", "Neg"]
    assert declines(DeadNodes(), result).reason == "every node serves an output"


def test_keeps_what_only_a_branch_reads(rewriting, declines):
    graph = rewriting.graph("""
        main (bool c, float[3] x) => (float[3] y) {
            outer = Exp (x)
            y = If (c) <
                then_branch = yes () => (float[3] p) { p = Relu (outer) },
                else_branch = no () => (float[3] q) { q = Neg (x) }
            >
        }""")
    declines(DeadNodes(), graph)


def test_removes_inside_branches(rewriting):
    graph = rewriting.graph("""
        main (bool c, float[3] x) => (float[3] y) {
            outer = Exp (x)
            y = If (c) <
                then_branch = yes () => (float[3] p) { unused = Relu (outer)  p = Abs (x) },
                else_branch = no () => (float[3] q) { q = Neg (x) }
            >
        }""")
    result = rewriting.rewritten(DeadNodes(), graph)
    assert rewriting.operators(result) == ["If", "Abs", "Neg"]


def test_a_dead_branch_reads_nothing_any_more(rewriting):
    graph = rewriting.graph("""
        main (bool c, float[3] x) => (float[3] y) {
            a = Exp (x)
            z = If (c) <
                then_branch = yes () => (float[3] p) { p = Relu (a) },
                else_branch = no () => (float[3] q) { q = Neg (a) }
            >
            y = Neg (a)
        }""")
    result = rewriting.rewritten(DeadNodes(), graph)
    assert rewriting.operators(result) == ["Exp", "Neg"]
    assert [node.name for node in result.gs.nodes[0].outputs[0].outputs] == ["Neg_y"]


def test_leaves_out_optional_outputs(rewriting):
    graph = rewriting.graph("""
        main (float[1,1,4] x) => (float[1,1,3] y) {
            y, indices = MaxPool <kernel_shape=[2]> (x)
        }""")
    result = rewriting.rewritten(DeadNodes(), graph, special=False)
    assert len(result.gs.nodes[0].outputs) == 1


def test_leaves_a_gap_for_an_optional_output_before_one_that_is_read(rewriting):
    graph = rewriting.graph("""
        main (float[5,1,2] x, float[1,8,2] w, float[1,8,2] r) => (float[1,1,2] h) {
            y, h, c = LSTM <hidden_size=2> (x, w, r)
        }""")
    result = rewriting.rewritten(DeadNodes(), graph, special=False)
    assert [tensor.name for tensor in result.gs.nodes[0].outputs] == ["", "h"]


def test_keeps_outputs_that_the_operator_must_have(rewriting, declines):
    graph = rewriting.graph("""
        main (float[4] x) => (float[2] a) {
            a, b = Split <num_outputs=2> (x)
        }""")
    declines(DeadNodes(), graph)


def test_removes_functions_never_called(rewriting):
    graph = rewriting.graph(
        "main (float[3] x) => (float[3] y) { y = local.used (x) }",
        functions="""
        <domain: "local", opset_import: ["": 21, "local": 1]> used (a) => (b) { b = local.inner (a) }
        <domain: "local", opset_import: ["": 21]> inner (a) => (b) { b = Relu (a) }
        <domain: "local", opset_import: ["": 21]> spare (a) => (b) { b = Neg (a) }
        """,
    )
    result = rewriting.rewritten(DeadNodes(), graph)
    assert sorted(function.name for function in result.gs.functions) == ["inner", "used"]

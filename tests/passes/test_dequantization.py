from lepton_compile.passes.dequantization import Dequantization

TEXT = """
    main (uint8[1,4] q) => (float[1,4] y) {
        scale = Constant <value_float = 0.5> ()
        d = DequantizeLinear (q, scale)
        a = Exp (d)
        b = Mul (a, d)
        y = Add (b, d)
    }"""


def test_every_reader_gets_its_own(rewriting, declines):
    result = rewriting.rewritten(Dequantization(), rewriting.graph(TEXT))
    assert rewriting.operators(result).count("DequantizeLinear") == 3
    assert declines(Dequantization(), result).reason == "no DequantizeLinear is read by several nodes"


def test_one_reader_needs_no_copy(rewriting, declines):
    declines(
        Dequantization(),
        rewriting.graph("""
            main (uint8[1,4] q) => (float[1,4] y) {
                scale = Constant <value_float = 0.5> ()
                d = DequantizeLinear (q, scale)
                y = Mul (d, d)
            }"""),
    )


def test_a_reader_in_a_branch(rewriting):
    result = rewriting.rewritten(
        Dequantization(),
        rewriting.graph("""
            main (bool c, uint8[1,4] q) => (float[1,4] y) {
                scale = Constant <value_float = 0.5> ()
                d = DequantizeLinear (q, scale)
                e = Exp (d)
                y = If (c) <
                    then_branch = yes () => (float[1,4] p) { p = Add (d, e) },
                    else_branch = no () => (float[1,4] r) { r = Neg (e) }
                >
            }"""),
    )
    assert rewriting.operators(result).count("DequantizeLinear") == 2

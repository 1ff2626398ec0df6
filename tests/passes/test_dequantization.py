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
    assert declines(Dequantization(), result).reason == "nothing that is restored is read by several nodes"


def test_bfloat16_is_widened_by_every_reader(rewriting):
    result = rewriting.rewritten(
        Dequantization(),
        rewriting.graph("""
            main (float[1,4] x) => (float[1,4] y) {
                n = Cast <to = 16> (x)
                w = Cast <to = 1> (n)
                a = Exp (w)
                y = Mul (a, w)
            }"""),
    )
    assert rewriting.operators(result).count("Cast") == 3


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

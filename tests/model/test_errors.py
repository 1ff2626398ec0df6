"""Errors are one line for a person, and fields for a program."""

import pickle
import subprocess
import sys

from lepton_compile.errors import (
    BudgetError,
    BuildError,
    LeptonError,
    ModelError,
    PassError,
    UnsupportedOperator,
    UnsupportedOperatorError,
)


def test_messages_are_one_line_and_facts_are_fields():
    error = ModelError("it\n  is   wrong\n", path="model.onnx", axis=3)
    assert str(error) == "it is wrong"
    assert (error.path, error.axis, error.facts) == ("model.onnx", 3, {"path": "model.onnx", "axis": 3})


def test_all_unsupported_operators_are_in_the_message():
    operators = [
        UnsupportedOperator("Magic", "com.acme", 2, ("a", "b")),
        UnsupportedOperator("Loop", "", 21, ("c",), "its condition is not known"),
    ]
    error = UnsupportedOperatorError(operators)
    assert error.operators == tuple(operators)
    for word in ("2 operators", "com.acme.Magic (version 2) at 'a', 'b'", "ai.onnx.Loop", "'c': its condition"):
        assert word in str(error)
    assert "an operator that is not supported" in str(UnsupportedOperatorError(operators[:1]))


def test_the_family():
    error = PassError("fuse", "lost a node", node="conv_1")
    assert str(error) == "pass 'fuse': lost a node"
    assert (error.pass_name, error.node) == ("fuse", "conv_1")
    assert isinstance(error, BuildError) and not isinstance(error, ModelError)
    assert all(issubclass(kind, LeptonError) for kind in (BuildError, BudgetError, UnsupportedOperatorError))


def test_errors_cross_processes():
    """Workers hand theirs to the process that started them."""
    originals = [
        ModelError("wrong", path="p"),
        PassError("fuse", "lost a node", node="n"),
        UnsupportedOperatorError([UnsupportedOperator("Magic", "com.acme", 2, ("a",))]),
    ]
    for error in originals:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error) and str(copy) == str(error) and copy.facts == error.facts


def test_errors_need_nothing_but_numpy():
    program = "import sys, lepton_compile.errors; print({'onnx', 'tvm', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

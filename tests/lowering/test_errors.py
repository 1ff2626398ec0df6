"""What goes wrong in lowering names the node."""

from __future__ import annotations

import pytest
import tvm

from lepton_compile.errors import BuildError
from lepton_compile.lowering import lower
from lepton_compile.lowering.operators import OPERATORS
from lepton_compile.model import import_model


def test_a_tvm_error_names_the_node(model, host, monkeypatch):
    def broken(operation, x):
        raise tvm.error.InternalError("Check failed: (it != end) is false")

    monkeypatch.setitem(OPERATORS, "Relu", broken)
    model.output(model.node("Relu", model.input(3), name="y"))
    with pytest.raises(BuildError, match=r"Relu 'node_y' cannot be lowered: .*Check failed") as caught:
        lower(import_model(model.proto()), host, "model")
    assert caught.value.nodes == ("node_y",)

"""True accuracy: models whose layers were quantized under a contract, on inputs that neither calibrated nor judged."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from corpus.digits import digits
from corpus.models import trained_path

import lepton_compile as lc

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(
        not lc.resolve_target("host").has_dot_products,
        reason="this machine has no instruction for products of bytes, so that nothing is quantized for it",
    ),
]

MAX_DROP = 0.005
NETS = ("lenet", "resnet", "mobilenet", "densenet")
"""Plain, residual, depthwise, concatenating."""


def calibration(*, labels):
    training, _ = digits()
    chosen = slice(0, 600)
    arrays = {"x": training.images[chosen, None]}
    return arrays | {"labels": training.labels[chosen]} if labels else arrays


def compiled(model, data, **arguments):
    """Compiled under the contract; the quantization step with it."""
    made = lc.compile(model, "host", calibration=data, metric="top1", budget=lc.Budget(max_drop=MAX_DROP), **arguments)
    return made, next(step for step in made.manifest["passes"] if step["pass"] == "quantization")


def accuracy(scores):
    _, test = digits()
    return float(np.mean([scores(image[None]).argmax() == label for image, label in zip(*vars(test).values())]))


def original_accuracy(model):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return accuracy(lambda image: session.run(None, {"x": image})[0])


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "agreement"])
@pytest.mark.parametrize("name", NETS)
def test_trained_nets_lose_at_most_half_a_point(name, labels):
    path = trained_path(name)
    made, step = compiled(path, calibration(labels=labels))
    assert len(step["settings"]["layers"]) >= 2
    before, after = original_accuracy(path), accuracy(lambda image: made.run({"x": image})["y"])
    assert before > 0.95
    assert after >= before - MAX_DROP, f"{before:.4f} became {after:.4f}"

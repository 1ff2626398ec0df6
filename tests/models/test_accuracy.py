"""True accuracy: models whose layers were quantized under a contract, on inputs that neither calibrated nor judged."""

from __future__ import annotations

import corpus
import numpy as np
import onnx
import onnxruntime
import pytest
from corpus import agreement, meaning, media, wheel_files
from corpus.digits import digits
from corpus.english import sentences
from corpus.feeds import LINES, file_tokens
from corpus.models import trained_path
from corpus.reading import read_page
from corpus.samples import calibration_feeds
from PIL import Image

import lepton_compile as lc

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(
        not lc.resolve_target("host").has_dot_products,
        reason="this machine has no instruction for products of bytes, so that nothing is quantized for it",
    ),
]

MAX_DROP = 0.005
PAGES = 0.3
"""Of the deviation from the original that `corpus.agreement` allows, for text that is the same."""
NETS = ("lenet", "resnet", "mobilenet", "densenet")
"""Plain, residual, depthwise, concatenating."""


def calibration(*, labels):
    training, _ = digits()
    chosen = slice(0, 1500)  # of 500 that judge, one may change its class
    arrays = {"x": training.images[chosen, None]}
    return arrays | {"labels": training.labels[chosen]} if labels else arrays


def compiled(model, data):
    """Compiled under the contract; the quantization step with it."""
    made = lc.compile(model, "host", calibration=data, metric="top1", budget=lc.Budget(max_drop=MAX_DROP))
    return made, next(step for step in made.manifest["passes"] if step["pass"] == "quantization")


def accuracy(scores):
    _, test = digits()
    return float(
        np.mean([scores(image[None]).argmax() == label for image, label in zip(test.images, test.labels, strict=True)])
    )


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


def harder(model, through, factor=300.0):
    """The same function, with one channel `factor` times as large between two convolutions; and the second of them.

    Args:
        model: The file.
        through: The operators between the two; positive factors go through them.
        factor: The factor.
    """
    made = onnx.load(model)
    weights = {each.name: each for each in made.graph.initializer}
    readers = {
        node.output[0]: [one for one in made.graph.node if node.output[0] in one.input] for node in made.graph.node
    }

    def scale(name, place, by):
        values = onnx.numpy_helper.to_array(weights[name]).copy()
        values[place] *= np.float32(by)
        weights[name].CopyFrom(onnx.numpy_helper.from_array(values, name))

    for first in made.graph.node:
        chain = [first]
        while len(readers[chain[-1].output[0]]) == 1 and len(chain) < len(through) + 2:
            chain += readers[chain[-1].output[0]]
        if [node.op_type for node in chain] == ["Conv", *through, "Conv"]:
            scale(first.input[1], 2, factor)
            scale(first.input[2], 2, factor)
            scale(chain[-1].input[1], (slice(None), 2), 1 / factor)
            return made, chain[-1]
    raise LookupError(through)


@pytest.mark.parametrize(("name", "through"), [("resnet", ["Relu"]), ("lenet", ["Relu", "MaxPool"])])
def test_a_channel_of_outliers_in_a_trained_net_is_found_named_and_treated(name, through):
    path = trained_path(name)
    model, second = harder(path, through)
    before = original_accuracy(model.SerializeToString())
    assert before == pytest.approx(original_accuracy(path), abs=1e-3)
    made, step = compiled(model, calibration(labels=True))
    smoothed = {
        source: factors for source, factors in step["settings"]["smoothing"] if max(factors) > 30 * min(factors)
    }
    if second.input[0] in smoothed:
        assert list(smoothed) == [second.input[0]] and int(np.argmax(smoothed[second.input[0]])) == 2
        assert second.name in dict(step["settings"]["layers"])
    else:  # left in floating point, as what suffers most
        plan = lc.Plan.from_json((made.folder / "plan.json").read_text())
        (step,) = (each for each in plan.steps if each.name == "quantization")
        assert step.findings["layers"][0]["layer"] == second.name
        assert [each for each in step.refusals if each.startswith(f"{second.name}: top1 would drop too far")]
    after = accuracy(lambda image: made.run({"x": image})["y"])
    assert after >= before - MAX_DROP, f"{before:.4f} became {after:.4f}"


def session_of(name):
    session = onnxruntime.InferenceSession(corpus.model_path(name), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def test_magika_keeps_its_label_on_real_files():
    data = [{"bytes": file_tokens(content)} for content in wheel_files.calibration_files().values()]
    # Labels alone are a coarse measure of 67 files; the angle of scores is not.
    model, budget = corpus.model_path("magika"), lc.Budget(max_drop=0.001)
    made = lc.compile(model, "host", shapes=corpus.shapes("magika"), calibration=data, metric="cosine", budget=budget)
    step = next(step for step in made.manifest["passes"] if step["pass"] == "quantization")
    assert step["settings"]["layers"]
    original = session_of("magika")
    found = {}
    for name, content in wheel_files.held_out_files().items():
        feed = {"bytes": file_tokens(content)}
        answer = original(feed)
        if answer["target_label"].max() >= 0.5:  # below it, magika does not take its model's word
            found[name] = meaning.file_type(made.run(feed)), meaning.file_type(answer)
    assert len(found) > 150 and len({label for _, label in found.values()}) >= 20
    assert [(name, *labels) for name, labels in found.items() if labels[0] != labels[1]] == []


def test_the_same_text_is_read_from_pages_when_all_three_models_are_quantized():
    original = {name: session_of(name) for name in ("ppocr-det", "ppocr-cls", "ppocr-rec")}
    quantized = {}
    for name, count in zip(original, (24, 60, 60), strict=True):
        made = lc.compile(
            corpus.model_path(name),
            "host",
            shapes=corpus.shapes(name),
            calibration=calibration_feeds(name, count),
            metric=agreement.metric(name),
            budget=lc.Budget(max_drop=PAGES),
        )
        assert any(step["pass"] == "quantization" for step in made.manifest["passes"]), name
        quantized[name] = made.run
    words = [word for line in sentences()[1::2] for word in line.split() if word.isalpha() and 4 <= len(word) <= 9]
    printed = [
        LINES,
        *(tuple(map(" ".join, zip(words[k::12], words[k + 6 :: 12], strict=False)))[:5] for k in range(6)),
    ]
    pages = [media.page(lines) for lines in printed]
    pages.append(pages[1].transpose(Image.Transpose.ROTATE_180))
    expected = [read_page(page, original) for page in pages]
    assert expected[:-1] == list(map(list, printed)) and set(expected[-1]) == set(printed[1])
    assert [read_page(page, quantized) for page in pages] == expected

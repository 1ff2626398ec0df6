"""How nets of `corpus.digit_nets` are trained, on the digits of the first part."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable

import onnx
import torch
from torch import nn

from corpus.digit_nets import NETS, Widths
from corpus.digits import PER_PIXEL, digits

# Nets without convolutions have to be shown digits at more places.
_EPOCHS = {"mlp": 24, "transformer": 24, "gru": 24}
_FEWEST_EPOCHS = 8
_BATCH = 50


def build(name: str, widths: Iterable[int] | None = None, seed: int = 0) -> onnx.ModelProto:
    """A trained net; the same every time on one machine.

    Args:
        name: Of `NETS`.
        widths: Those that replace the published ones.
        seed: Of the first weights, and of the order of the digits.
    """
    torch.set_num_threads(1)  # several wait for each other at every small layer, and add up in another order
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = NETS[name](Widths(widths))
        _train(net, name)
    return _exported(net.eval())


def _train(net: nn.Module, name: str) -> None:
    """Cross entropy by AdamW with one cycle of the rate of learning, on digits that are moved by up to two pixels."""
    training, _ = digits()
    images = torch.from_numpy(training.images)
    labels = torch.from_numpy(training.pixels if name in PER_PIXEL else training.labels)
    epochs = _EPOCHS.get(name, _FEWEST_EPOCHS)
    steps = epochs * -(-len(images) // _BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss()
    net.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(_BATCH):
            down, right = torch.randint(-2, 3, (2,)).tolist()
            moved = images[chosen].roll((down, right), (2, 3))
            wanted = labels[chosen] if labels.ndim == 1 else labels[chosen].roll((down, right), (1, 2))
            loss = loss_of(net(moved).flatten(0, -2), wanted.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _exported(net: nn.Module) -> onnx.ModelProto:
    """The net as ONNX, for one digit at a time: "x" to "y"."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without dependencies is deprecated, and the version is pinned
        example = torch.zeros(1, 1, 28, 28)
        torch.onnx.export(
            net, (example,), stream, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"]
        )
    return onnx.load_from_string(stream.getvalue())

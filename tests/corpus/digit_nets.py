"""Nets of published shapes, trained on handwritten digits with PyTorch; a net is one function of `NETS`.

Whatever imports this module needs the extra "train". `corpus.models.trained_path` builds and keeps the models, so that
only the first who asks for one does.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping

import onnx
import torch
from torch import Tensor, nn

from corpus.digits import digits

_EPOCHS = 8
_BATCH = 50


def lenet() -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) with rectifiers: plain convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def resnet() -> nn.Module:
    """ResNet-20 (He et al., 2016), its first convolution of stride 2: residuals."""
    widths = (16, 16, 16, 32, 32, 32, 64, 64, 64)
    blocks = [
        _Residual(before, width, 1 if before == width else 2)
        for before, width in zip((16, *widths), widths, strict=False)
    ]
    return nn.Sequential(*_normalised(1, 16, 3, stride=2), nn.ReLU(), *blocks, *_classifier(64))


def mobilenet() -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018) at width 0.5, its second stage of stride 1: depthwise convolutions."""
    stages = ((1, 8, 1, 1), (6, 16, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))
    layers: list[nn.Module] = [*_normalised(1, 16, 3, stride=2), nn.ReLU6()]
    width = 16
    for expansion, wider, repetitions, stride in stages:
        for number in range(repetitions):
            layers.append(_Inverted(width, wider, expansion, stride if number == 0 else 1))
            width = wider
    return nn.Sequential(*layers, *_normalised(width, 1280, 1), nn.ReLU6(), *_classifier(1280))


def densenet() -> nn.Module:
    """DenseNet-BC (Huang et al., 2017) with growth 12 and 4 layers a block: concatenations."""
    growth, width = 12, 24
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)]
    for block in range(3):
        for _ in range(4):
            layers.append(_Dense(width, growth))
            width += growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if block < 2:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers, *_classifier(width))


NETS: Mapping[str, Callable[[], nn.Module]] = {net.__name__: net for net in (lenet, resnet, mobilenet, densenet)}


def build(name: str) -> onnx.ModelProto:
    """A trained net; the same every time on one machine."""
    torch.set_num_threads(1)  # several wait for each other at every small layer, and add up in another order
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NETS[name]()
        _train(net)
    return _exported(net.eval())


def _train(net: nn.Module) -> None:
    """Cross entropy by AdamW with one cycle of the rate of learning, on digits that are moved by up to two pixels."""
    training, _ = digits()
    images, labels = torch.from_numpy(training.images), torch.from_numpy(training.labels)
    steps = _EPOCHS * -(-len(images) // _BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss()
    net.train()
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(images)).split(_BATCH):
            down, right = torch.randint(-2, 3, (2,)).tolist()
            loss = loss_of(net(images[chosen].roll((down, right), (2, 3))), labels[chosen])
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


def _normalised(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size of maps, and its batch normalization."""
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


def _classifier(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


class _Residual(nn.Module):
    """relu(f(x) + shortcut(x)), f being two convolutions of 3x3."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first, second = _normalised(inputs, outputs, 3, stride=stride), _normalised(outputs, outputs, 3)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_normalised(inputs, outputs, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class _Inverted(nn.Module):
    """Wider by 1x1, depthwise 3x3, narrower by 1x1, and x itself where the size stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        wider = [*_normalised(inputs, inner, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_normalised(inner, inner, 3, stride=stride, groups=inner), nn.ReLU6()]
        self.body = nn.Sequential(*wider, *depthwise, *_normalised(inner, outputs, 1))
        self.same = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x)
        return x + made if self.same else made


class _Dense(nn.Module):
    """x with what 1x1 and 3x3 convolutions of it add."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        narrow = [nn.BatchNorm2d(inputs), nn.ReLU(), *_normalised(inputs, 4 * growth, 1), nn.ReLU()]
        self.body = nn.Sequential(*narrow, nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)

"""Nets of published shapes for handwritten digits; a net is one function of `NETS`.

All classify a digit, but for the U-Net, which says of each pixel which digit it is of, or the background. As trained by
`corpus.training` and kept by `corpus.models.trained_path`, they tell 96.5 (transformer) to 98.3 % (SE-ResNet) of the
digits to test; the U-Net's mean Jaccard index is 92.5 %. Whatever imports this module needs the extra "train".

Widths are asked for in the order in which a graph has them, so that a net can be built as wide as pruning left another
one, to be trained from nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn


class Widths:
    """How wide the parts of a net are: as published, or else as given.

    Args:
        given: The widths that replace the published ones, in the order in which they are asked for.
    """

    def __init__(self, given: Iterable[int] | None = None) -> None:
        self._given = None if given is None else iter(given)
        self.published: list[int] = []

    def __call__(self, published: int) -> int:
        """The next width. One that is 1 as published has nothing to lose, and is none of those given."""
        if published == 1:
            return 1
        self.published.append(published)
        return published if self._given is None else next(self._given)


def lenet(width: Widths) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) with rectifiers: plain convolutions."""
    one, two = width(6), width(16)
    three, four = width(120), width(84)
    return nn.Sequential(
        nn.Conv2d(1, one, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(one, two, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(25 * two, three),
        nn.ReLU(),
        nn.Linear(three, four),
        nn.ReLU(),
        nn.Linear(four, 10),
    )


def resnet(width: Widths) -> nn.Module:
    """ResNet-20 (He et al., 2016), its first convolution of stride 2: residuals."""
    return _residual_net(width, gated=False)


def se_resnet(width: Widths) -> nn.Module:
    """The same with squeeze and excitation (Hu et al., 2018, arXiv:1709.01507), of a reduction by 16."""
    return _residual_net(width, gated=True)


def mobilenet(width: Widths) -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018) at width 0.5, its second stage of stride 1: depthwise convolutions."""
    stages = ((1, 8, 1, 1), (6, 16, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))
    published, before = 16, width(16)
    layers: list[nn.Module] = [*_normalised(1, before, 3, stride=2), nn.ReLU6()]
    for expansion, wider, repetitions, stride in stages:
        for number in range(repetitions):
            inner = width(expansion * published) if expansion > 1 else before
            # Where the size stays, what a block adds to has its width.
            same = wider == published and (number > 0 or stride == 1)
            after = before if same else width(wider)
            steps = stride if number == 0 else 1
            layers.append(_Inverted(before, inner, after, steps, wider=expansion > 1, same=same))
            published, before = wider, after
    last = width(1280)
    return nn.Sequential(*layers, *_normalised(before, last, 1), nn.ReLU6(), *_classifier(last))


def densenet(width: Widths) -> nn.Module:
    """DenseNet-BC (Huang et al., 2017) with growth 12 and 4 layers a block: concatenations."""
    growth = 12
    published, wide = 24, width(24)
    layers: list[nn.Module] = [nn.Conv2d(1, wide, 3, stride=2, padding=1, bias=False)]
    for block in range(3):
        for _ in range(4):
            narrow, grown = width(4 * growth), width(growth)
            layers.append(_Dense(wide, narrow, grown))
            published, wide = published + growth, wide + grown
        layers += [nn.BatchNorm2d(wide), nn.ReLU()]
        if block < 2:
            published //= 2
            after = width(published)
            layers += [nn.Conv2d(wide, after, 1, bias=False), nn.AvgPool2d(2)]
            wide = after
    return nn.Sequential(*layers, *_classifier(wide))


def unet(width: Widths) -> nn.Module:
    """U-Net (Ronneberger et al., 2015, arXiv:1505.04597) at half its widths: skips.

    Its first three levels, padded and normalised.
    """
    return _UNet(width, (32, 64, 128), 11)


def mlp(width: Widths) -> nn.Module:
    """LeNet-300-100 (LeCun et al., 1998) with rectifiers: products alone."""
    one, two = width(300), width(100)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, one), nn.ReLU(), nn.Linear(one, two), nn.ReLU(), nn.Linear(two, 10)
    )


def transformer(width: Widths) -> nn.Module:
    """A vision transformer (Dosovitskiy et al., 2021, arXiv:2010.11929): 4 layers of width 64 on patches of 7x7."""
    return _Transformer(width, layers=4, wide=width(64), heads=4, features=16, patch=7)


def gru(width: Widths) -> nn.Module:
    """64 gated recurrent units (Cho et al., 2014, arXiv:1406.1078) that read a digit row by row."""
    return _Gru(width(64))


NETS: Mapping[str, Callable[[Widths], nn.Module]] = {
    net.__name__: net for net in (lenet, resnet, mobilenet, densenet, unet, se_resnet, mlp, transformer, gru)
}


def _normalised(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size of maps, and its batch normalization."""
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


def _classifier(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


def _residual_net(width: Widths, *, gated: bool) -> nn.Module:
    published, before = 16, width(16)
    layers: list[nn.Module] = [*_normalised(1, before, 3, stride=2), nn.ReLU()]
    for wider in (16, 16, 16, 32, 32, 32, 64, 64, 64):
        same = wider == published
        inner = width(wider)
        after = before if same else width(wider)
        squeezed = width(wider // 16) if gated else 0
        layers.append(_Residual(before, inner, after, squeezed, same=same))
        published, before = wider, after
    return nn.Sequential(*layers, *_classifier(before))


class _Residual(nn.Module):
    """relu(f(x) + shortcut(x)), f being two convolutions of 3x3, and a gate for each channel where there is one."""

    def __init__(self, inputs: int, inner: int, outputs: int, squeezed: int, *, same: bool) -> None:
        super().__init__()
        stride = 1 if same else 2
        first, second = _normalised(inputs, inner, 3, stride=stride), _normalised(inner, outputs, 3)
        gate = [_SqueezeExcite(outputs, squeezed)] if squeezed else []
        self.body = nn.Sequential(*first, nn.ReLU(), *second, *gate)
        self.shortcut = nn.Identity() if same else nn.Sequential(*_normalised(inputs, outputs, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class _SqueezeExcite(nn.Module):
    """Each channel by a gate that the means of all of them tell."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.gate(x)
        return gated


class _Inverted(nn.Module):
    """Wider by 1x1, depthwise 3x3, narrower by 1x1, and x itself where the size stays."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, *, wider: bool, same: bool) -> None:
        super().__init__()
        first = [*_normalised(inputs, inner, 1), nn.ReLU6()] if wider else []
        depthwise = [*_normalised(inner, inner, 3, stride=stride, groups=inner), nn.ReLU6()]
        self.body = nn.Sequential(*first, *depthwise, *_normalised(inner, outputs, 1))
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x)
        return x + made if self.same else made


class _Dense(nn.Module):
    """x with what 1x1 and 3x3 convolutions of it add."""

    def __init__(self, inputs: int, narrow: int, growth: int) -> None:
        super().__init__()
        first = [nn.BatchNorm2d(inputs), nn.ReLU(), *_normalised(inputs, narrow, 1), nn.ReLU()]
        self.body = nn.Sequential(*first, nn.Conv2d(narrow, growth, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class _UNet(nn.Module):
    """Down by pooling and up by transposed convolutions; what each level had on the way down is read on the way up."""

    def __init__(self, width: Widths, published: tuple[int, ...], classes: int) -> None:
        super().__init__()
        down, up = [], []
        before, skipped = 1, []
        for wide in published:
            inner, after = width(wide), width(wide)
            down.append(_twice(before, inner, after))
            before = after
            skipped.append(after)
        for wide, skip in zip(published[-2::-1], skipped[-2::-1], strict=True):
            doubled = width(wide)
            inner, after = width(wide), width(wide)
            up.append(nn.ModuleList([nn.ConvTranspose2d(before, doubled, 2, 2), _twice(skip + doubled, inner, after)]))
            before = after
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.classes = nn.Conv2d(before, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, height, width] to [n, height, width, classes]."""
        skipped = []
        for number, level in enumerate(self.down):
            x = level(x if number == 0 else torch.max_pool2d(x, 2))
            skipped.append(x)
        for (doubling, level), skip in zip(self.up, skipped[-2::-1], strict=True):  # type: ignore[misc]
            x = level(torch.cat([skip, doubling(x)], 1))
        return self.classes(x).permute(0, 2, 3, 1)


def _twice(inputs: int, inner: int, outputs: int) -> nn.Module:
    return nn.Sequential(*_normalised(inputs, inner, 3), nn.ReLU(), *_normalised(inner, outputs, 3), nn.ReLU())


class _Transformer(nn.Module):
    """Patches with their places through layers that are normalised in front; the mean of all tokens is classified."""

    def __init__(self, width: Widths, *, layers: int, wide: int, heads: int, features: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, wide, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (28 // patch) ** 2, wide))
        self.layers = nn.Sequential(
            *(_Layer(wide, width(heads), features, width(4 * heads * features)) for _ in range(layers))
        )
        self.classes = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, 10))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        classes: Tensor = self.classes(self.layers(tokens).mean(1))
        return classes


class _Layer(nn.Module):
    """x + attention(x), and that with what two products with GELU between make of it."""

    def __init__(self, stream: int, heads: int, features: int, inner: int) -> None:
        super().__init__()
        self.features = features
        self.normalised = nn.LayerNorm(stream)
        self.queries, self.keys, self.values = (nn.Linear(stream, heads * features) for _ in range(3))
        self.joined = nn.Linear(heads * features, stream)
        self.inner = nn.Sequential(nn.LayerNorm(stream), nn.Linear(stream, inner), nn.GELU(), nn.Linear(inner, stream))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.normalised(x))
        inner: Tensor = x + self.inner(x)
        return inner

    def attention(self, x: Tensor) -> Tensor:
        products = (self.queries, self.keys, self.values)
        q, k, v = (each(x).unflatten(2, (-1, self.features)).transpose(1, 2) for each in products)
        scores = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(self.features), -1)
        joined: Tensor = self.joined((scores @ v).transpose(1, 2).flatten(2))
        return joined


class _Gru(nn.Module):
    """The state behind the last row is classified."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = nn.GRU(28, units, batch_first=True)
        self.classes = nn.Linear(units, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.units(x.squeeze(1))
        classes: Tensor = self.classes(states[:, -1])
        return classes

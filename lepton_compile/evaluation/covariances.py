"""How what a layer multiplies by its weights hangs together, over samples: means and covariances; and those weights.

For a convolution that is what a window sees of the input, padding included; so many windows of each sample are drawn,
by a fixed seed, that all samples together give `DRAWN`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from numpy.lib.stride_tricks import sliding_window_view

from lepton_compile.rewriting.biases import RECURRENT

Array = npt.NDArray[Any]

LARGEST_INNER = 2304
"""Moments of more inputs are not taken: they are so many squared, 21 MB in float32."""
FEWEST_VECTORS = 32
"""The mean of fewer would tell what a sample was: nothing that a plan keeps comes from fewer."""
DRAWN = 8192
"""How many vectors all samples together give."""


@dataclass(frozen=True)
class Covariances:
    """How what a layer multiplies of two inputs, y and x, hangs together; by groups and inputs.

    Attributes:
        mean: E[y].
        other_mean: E[x].
        moments: The covariance of y with itself, E[y'y] - E[y]'E[y].
        mixed: That of y with x.
        vectors: Over how many vectors these are.
    """

    mean: npt.NDArray[np.float32]
    other_mean: npt.NDArray[np.float32]
    moments: npt.NDArray[np.float32]
    mixed: npt.NDArray[np.float32]
    vectors: int

    @property
    def finite(self) -> bool:
        """Whether float32 holds them."""
        return bool(np.isfinite(self.moments).all() and np.isfinite(self.mixed).all())


def drawn(rows: Callable[[Array, np.random.Generator, int], Array], values: Sequence[Array]) -> Iterator[Array]:
    """What a layer multiplies of an input in each sample, by groups, vectors and inputs.

    Args:
        rows: What it multiplies of an input, at most so many vectors, as `rows_of` gives them.
        values: The input in each sample.
    """
    most = -(-DRAWN // len(values))
    return (rows(value, np.random.default_rng(number), most) for number, value in enumerate(values))


def covariances(ones: Iterable[Array], others: Iterable[Array]) -> Covariances:
    """How what a layer multiplies of two inputs hangs together.

    Args:
        ones: y of each sample, as `drawn` gives it.
        others: x of each sample, of the same vectors.
    """
    mean = other_mean = moments = mixed = np.zeros((), np.float32)
    count = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for y, x in zip(ones, others, strict=True):
            mean, other_mean = mean + y.sum(axis=1), other_mean + x.sum(axis=1)
            moments, mixed = moments + y.swapaxes(1, 2) @ y, mixed + y.swapaxes(1, 2) @ x
            count += y.shape[1]
        mean, other_mean = (each / np.float32(count) for each in (mean, other_mean))
        moments, mixed = (
            total / np.float32(count) - mean[:, :, None] * each[:, None]
            for total, each in ((moments, mean), (mixed, other_mean))
        )
    return Covariances(mean, other_mean, moments, mixed, count)


def least_squares(known: Covariances, wanted: Array, near: Array, share: float) -> npt.NDArray[np.float32]:
    """W' of which y W' is nearest to x W, around the means, and which stays near V where little is known.

    (C[y'y] + d) (W' - V) = C[y'x] W - C[y'y] V, by groups, inputs and outputs.

    Args:
        known: The covariances C.
        wanted: W.
        near: V.
        share: d, as a share of the mean variance of y.
    """
    # W' - V, so that weights that nothing moves stay what they are, exactly.
    left = known.mixed.astype(np.float64) @ wanted - known.moments.astype(np.float64) @ near
    return np.asarray(near + np.linalg.solve(damped(known, share), left), np.float32)


def damped(known: Covariances, share: float) -> npt.NDArray[np.float64]:
    """C[y'y] + d, by groups; d is this share of the mean variance of y."""
    damping = share * np.diagonal(known.moments, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    whole: npt.NDArray[np.float64] = known.moments + np.where(damping > 0, damping, 1.0) * np.eye(known.mean.shape[1])
    return whole


def rows_of(node: gs.Node, x: Array, random: np.random.Generator, most: int, place: int = 1) -> Array:
    """At most so many of the vectors that are multiplied by weights; by groups, vectors and inputs.

    Args:
        node: A convolution, transposed or not, a product, or a recurrent layer.
        x: What it reads; of the weights of a recurrent layer's state, states, by steps too or not.
        random: What draws.
        most: How many vectors of each group.
        place: Which of the node's inputs the weights are.
    """
    if node.op == "Conv":
        windows = _windows(node, x)
        places = windows.shape[: x.ndim - 1]
        drawn = windows[np.unravel_index(_draw(random, math.prod(places), most), places)]
        return drawn.reshape(len(drawn), int(node.attrs.get("group", 1)), -1).swapaxes(0, 1)
    if node.op == "ConvTranspose":
        pixels = np.moveaxis(x, 1, -1).reshape(
            math.prod((x.shape[0], *x.shape[2:])), int(node.attrs.get("group", 1)), -1
        )
        return pixels[_draw(random, len(pixels), most)].swapaxes(0, 1)
    if place == 2:
        # Each direction multiplies its own states.
        directions = int(node.attrs.get("layout", 0)) + x.ndim - 3
        states = np.moveaxis(x, directions, 0).reshape(x.shape[directions], -1, x.shape[-1])
        return states[:, _draw(random, states.shape[1], most)]
    rows = x.reshape(-1, x.shape[-1])
    return rows[_draw(random, len(rows), most)][None]


def by_inputs(node: gs.Node, weights: Array, place: int = 1) -> Array:
    """Weights of a layer, or what there is for each of them, by groups, the inputs of a group, and its outputs.

    Of a transposed convolution each tap is an output, of a recurrent layer's input each direction has its own.
    """
    if node.op == "Conv":
        groups = int(node.attrs.get("group", 1))
        return weights.reshape(groups, weights.shape[0] // groups, -1).swapaxes(1, 2)
    if node.op == "ConvTranspose":
        groups = int(node.attrs.get("group", 1))
        return weights.reshape(groups, weights.shape[0] // groups, -1)
    if node.op in RECURRENT:
        turned = weights.swapaxes(1, 2)
        return turned if place == 2 else np.concatenate(turned, axis=1)[None]
    return (weights.T if int(node.attrs.get("transB", 0)) else weights)[None]


def as_stored(node: gs.Node, values: Array, shape: tuple[int, ...], place: int = 1) -> Array:
    """What `by_inputs` made of an array of this shape, in that shape again."""
    if node.op == "Conv":
        return values.swapaxes(1, 2).reshape(shape)
    if node.op == "ConvTranspose":
        return values.reshape(shape)
    if node.op in RECURRENT:
        by_direction = values if place == 2 else np.stack(np.split(values[0], shape[0], axis=1))
        return by_direction.swapaxes(1, 2)
    stored: Array = values[0].T if int(node.attrs.get("transB", 0)) else values[0]
    return stored


def _draw(random: np.random.Generator, count: int, most: int) -> npt.NDArray[np.int64]:
    return np.arange(count) if count <= most else np.sort(random.choice(count, most, replace=False))


def _windows(node: gs.Node, x: Array) -> Array:
    """What each output of a convolution sees: by images, places, channels and taps; a view."""
    taps = node.inputs[1].shape[2:]
    rank = len(taps)
    strides = node.attrs.get("strides", [1] * rank)
    dilations = node.attrs.get("dilations", [1] * rank)
    reach = [(count - 1) * dilation + 1 for count, dilation in zip(taps, dilations, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *_padding(node, x.shape[2:], reach, strides)])
    windows = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    steps = [slice(None, None, int(step)) for step in (*strides, *dilations)]
    return np.moveaxis(windows[(slice(None), slice(None), *steps)], 1, 1 + rank)


def _padding(
    node: gs.Node, sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Before and after each spatial axis."""
    automatic = node.attrs.get("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        pads = node.attrs.get("pads", [0] * 2 * len(reach))
        return list(zip(pads[: len(reach)], pads[len(reach) :], strict=True))
    if automatic == "VALID":
        return [(0, 0)] * len(reach)
    found = []
    for size, width, stride in zip(sizes, reach, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + width - size, 0)
        less = total // 2
        found.append((less, total - less) if automatic == "SAME_UPPER" else (total - less, less))
    return found

"""What share of the machine's peak convolutions of real shapes reach, by kernel family.

    python benchmarks/convolutions.py [--threads N] [--target host] [--only depthwise] [--json FILE] [--markdown]

Each shape is an ONNX model of one node, compiled as any model is, with random weights. What counts is the time of the
steps that compute; what changes the layout of the model's input and output, which a longer model does not need, is
shown beside it. "Of peak" takes the operations that the kernels report, which for direct convolution include those on
the padding that they leave out; "as direct" takes those of the plain definition on values of the map, which Winograd's
algorithm does with fewer. The worst rows stand last.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

import lepton_compile
from lepton_compile.cli.table import print_table
from lepton_compile.measuring.machine import processor, processors
from lepton_compile.measuring.profile import StepTime, step_times, together
from lepton_compile.measuring.roofline import Roofline, footprint, measure_roofline
from lepton_compile.measuring.tables import markdown

RUNS = 30


@dataclass(frozen=True)
class Convolution:
    """A convolution of a square map, padded so that stride 1 keeps its size.

    Attributes:
        size: Height and width of the input.
        inputs: Input channels.
        outputs: Output channels.
        kernel: Height and width of the kernel.
        stride: Between two windows.
        groups: Independent groups of channels.
        dilation: Between two elements of a window.
        transposed: Whether it is a ConvTranspose.
    """

    size: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    transposed: bool = False

    def __str__(self) -> str:
        kind = "depthwise " if self.groups == self.inputs > 1 else "transposed " if self.transposed else ""
        text = f"{kind}{self.kernel}x{self.kernel} {self.inputs} -> {self.outputs} on {self.size}x{self.size}"
        text += f" stride {self.stride}" if self.stride > 1 else ""
        text += f" dilation {self.dilation}" if self.dilation > 1 else ""
        return text + (f" groups {self.groups}" if 1 < self.groups < self.inputs else "")

    @property
    def output_size(self) -> int:
        """Height and width of the output."""
        return self.size * self.stride if self.transposed else -(-self.size // self.stride)

    @property
    def operations(self) -> int:
        """Of the plain definition on values of the map, a multiply-add counting as two."""
        return 2 * self._taps() ** 2 * self.inputs * self.outputs // self.groups

    def _taps(self) -> int:
        """How often an axis of the kernel meets a value of the map."""
        if self.transposed:
            return self.size * self.kernel
        reach = (self.output_size - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
        before = max(reach - self.size, 0) // 2
        places = np.arange(self.output_size)[:, None] * self.stride + np.arange(self.kernel) * self.dilation - before
        return int(((places >= 0) & (places < self.size)).sum())

    def model(self) -> onnx.ModelProto:
        """The model of one node."""
        helper = onnx.helper
        shape = [self.inputs, self.outputs] if self.transposed else [self.outputs, self.inputs]
        weights = np.random.default_rng(0).standard_normal([shape[0], shape[1] // self.groups, *[self.kernel] * 2])
        scaled = (weights / math.sqrt(self.kernel**2 * self.inputs / self.groups)).astype(np.float32)
        node = helper.make_node(
            "ConvTranspose" if self.transposed else "Conv",
            ["x", "weight"],
            ["y"],
            name="convolution",
            auto_pad="SAME_UPPER",
            strides=[self.stride] * 2,
            group=self.groups,
            dilations=[self.dilation] * 2,
        )
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [node],
            "convolution",
            [value("x", onnx.TensorProto.FLOAT, [1, self.inputs, self.size, self.size])],
            [value("y", onnx.TensorProto.FLOAT, [1, self.outputs, self.output_size, self.output_size])],
            [onnx.numpy_helper.from_array(scaled, "weight")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


# Of ResNet, Inception, MobileNet, ShuffleNet, YOLO and text detectors; channels up to 1280, and such as fill no vector.
SHAPES = (
    *(Convolution(7, *channels, 1) for channels in ((512, 2048), (960, 160), (320, 1280), (544, 544))),
    *(Convolution(7, *channels, 3) for channels in ((512, 512), (160, 320))),
    *(Convolution(14, *channels, 1) for channels in ((1024, 256), (576, 96), (480, 112), (232, 232))),
    *(Convolution(14, *channels, 3) for channels in ((256, 256), (96, 208), (24, 64))),
    *(Convolution(20, *channels, 3) for channels in ((64, 64), (128, 128), (18, 18))),
    *(Convolution(20, *channels, 1) for channels in ((384, 128), (64, 18))),
    *(Convolution(35, *channels, 3) for channels in ((64, 96), (96, 96))),
    *(Convolution(35, *channels, 1) for channels in ((288, 64), (192, 48))),
    Convolution(35, 48, 64, 5),
    Convolution(17, 128, 128, 7),
    Convolution(28, 1, 6, 5),
    Convolution(112, 64, 1, 3),
    Convolution(224, 32, 3, 9),
    Convolution(224, 3, 64, 7, stride=2),
    Convolution(320, 3, 16, 3, stride=2),
    Convolution(299, 3, 32, 3, stride=2),
    Convolution(56, 128, 128, 3, stride=2),
    Convolution(20, 128, 256, 3, stride=2),
    Convolution(14, 1024, 2048, 1, stride=2),
    Convolution(28, 128, 128, 3, dilation=2),
    Convolution(14, 256, 256, 3, dilation=4),
    Convolution(28, 128, 128, 3, groups=32),
    Convolution(14, 272, 272, 1, groups=4),
    Convolution(27, 96, 256, 5, groups=2),
    Convolution(112, 32, 32, 3, groups=32),
    Convolution(14, 576, 576, 3, groups=576),
    Convolution(7, 960, 960, 3, groups=960),
    Convolution(14, 232, 232, 3, groups=232),
    Convolution(56, 144, 144, 3, stride=2, groups=144),
    Convolution(14, 672, 672, 5, groups=672),
    Convolution(160, 24, 24, 2, stride=2, transposed=True),
    Convolution(40, 64, 64, 4, stride=2, transposed=True),
    Convolution(20, 256, 128, 3, stride=2, transposed=True),
)


@dataclass(frozen=True)
class Row:
    """What was measured of one convolution: what computes, and what changes layouts."""

    convolution: Convolution
    computing: StepTime
    moving: StepTime


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads to run on (default %(default)s)")
    parser.add_argument("--target", default="host", help="what to compile for (default %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the shapes whose description has this in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = parser.parse_args()
    chosen = [shape for shape in SHAPES if arguments.only in str(shape)]
    if not chosen:
        parser.error(f"no shape has '{arguments.only}' in it; they are {'; '.join(map(str, SHAPES))}")
    if not 1 <= arguments.threads <= processors():
        parser.error(f"--threads must be at least 1 and at most {processors()}, the processors that may be used")
    target = lepton_compile.resolve_target(arguments.target)
    roofline = measure_roofline(target, arguments.threads)
    rows = []
    for shape in chosen:
        print(shape, file=sys.stderr)
        rows.append(measure(shape, target, arguments.threads, roofline))
    header, texts = table(rows, roofline)
    print(f"{processor()}, {arguments.threads} threads, {target.name}, peak {roofline.peak / 1e9:.0f} GFLOP/s\n")
    if arguments.markdown:
        print(markdown(header, texts))
    else:
        print_table(texts, header)
    if arguments.json:
        record = {"processor": processor(), "threads": arguments.threads, "target": target.name}
        record |= {"roofline": asdict(roofline), "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def measure(shape: Convolution, target: lepton_compile.Target, threads: int, roofline: Roofline) -> Row:
    """Compile and profile one."""
    compiled = lepton_compile.compile(shape.model(), target, threads=threads)
    x = np.random.default_rng(0).standard_normal([1, shape.inputs, shape.size, shape.size]).astype(np.float32)
    steps = step_times(compiled.profile({"x": x}, runs=RUNS), roofline, footprint(compiled))
    computing = [step for step in steps if step.family != "copy"]
    families = " + ".join(dict.fromkeys(step.family for step in computing))
    return Row(
        shape, together(families, computing), together("copy", [step for step in steps if step.family == "copy"])
    )


def table(rows: Sequence[Row], roofline: Roofline) -> tuple[Sequence[str], list[Sequence[str]]]:
    """The shares, worst last."""
    header = ("family", "shape", "us", "of peak", "of roofline", "as direct", "layouts us")

    def percent(share: float | None) -> str:
        return "" if share is None else f"{share * 100:.0f} %"

    def direct(row: Row) -> float:
        return row.convolution.operations / roofline.peak / row.computing.seconds

    texts: list[Sequence[str]] = [
        (
            row.computing.family,
            str(row.convolution),
            f"{row.computing.seconds * 1e6:.1f}",
            percent(row.computing.share_of_peak),
            percent(row.computing.share_of_roofline),
            percent(direct(row)),
            f"{row.moving.seconds * 1e6:.1f}",
        )
        for row in sorted(rows, key=direct, reverse=True)
    ]
    return header, texts


if __name__ == "__main__":
    main()

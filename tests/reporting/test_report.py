from __future__ import annotations

import re

from lepton_compile.reporting import Section, page, sections
from lepton_compile.reporting.pareto import picture

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
    {"number": 1, "family": "winograd", "operations": 1, "nodes": ["conv_2"], "seconds": 0.00025,
     "inputs": [{"dtype": "uint8"}, {"dtype": "int8"}, {"dtype": "uint8"}], "outputs": [{"shape": [1, 8, 4, 4]}],
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
    steps = found["Steps of a run"]
    assert steps.rows[1] == (
        "1", "winograd", "uint8 x int8", "1x8x4x4", "0.000", "0.2500", "winograd 4x4", "direct: slower", "conv_2"
    )  # fmt: skip
    assert len(steps.header) == len(steps.rows[0]) == len(steps.rows[1])


def test_further_variants_show_what_was_decided_of_them():
    other = {"steps": [PLAN["steps"][1] | {"reason": "another layer"}]}
    found = {section.title: section for section in sections(MANIFEST, PLAN, [], {"fast1": other})}
    assert found["fast1: Quantization"].text == "another layer"
    assert found["Passes that changed the variant fast1"].rows[0][0] == "quantization"
    assert found["Quantization"].text == "1 layer"


POINTS = [
    {"name": "", "settings": {"a.b": 1.0}, "latency": 0.001, "size": 2048, "memory": 4096, "drop": 0.02,
     "on the front": True, "taken": True},
    {"name": "as it is", "settings": {}, "latency": 0.002, "size": 4096, "memory": 8192, "drop": 0.0,
     "on the front": True, "taken": False},
    {"name": "<beaten>", "settings": {}, "latency": 0.003, "size": 4096, "memory": 8192, "drop": 0.0,
     "on the front": False, "taken": False},
]  # fmt: skip


def test_plans_are_shown_in_a_table_and_in_pictures():
    family = [{"model": "large", "why": "a run takes 9 ms"}]
    found = sections(MANIFEST, PLAN | {"points": POINTS, "family": family}, [])
    plans = next(section for section in found if section.title.startswith("Plans"))
    assert plans.rows[0] == ("a.b = 1.0", "1.000 ms", "2.0 KiB", "4.0 KiB", "0.02", "taken")
    assert [row[-1] for row in plans.rows] == ["taken", "on the front", ""]
    text = page("a net", found)
    assert text.count("<svg") == text.count("</svg>") == 3
    assert text.count("<circle") == 9 and "&lt;beaten&gt;" in text and "<beaten>" not in text
    assert ("large", "a run takes 9 ms") in next(s for s in found if s.title.startswith("Larger")).rows


def test_the_front_runs_through_its_points():
    text = picture(POINTS, "latency")
    line = re.search(r'points="([^"]*)"', text)
    places = [tuple(map(float, place.split(","))) for place in line[1].split()]
    assert len(places) == 2
    (fast, high), (slow, low) = places
    assert fast < slow and high < low  # what is faster drops more, which is drawn further up


def test_a_model_without_a_plan_has_a_report():
    assert [section.title for section in sections(MANIFEST, {}, [])] == ["Target", "Library"]


def test_the_page_shows_every_cell_and_takes_no_text_for_markup():
    text = page("net & co", sections(MANIFEST, PLAN, STEPS))
    assert "<title>net &amp; co</title>" in text and "&lt;conv_2&gt;" in text and "<conv_2>" not in text
    for section in by_title().values():
        assert section.title in text

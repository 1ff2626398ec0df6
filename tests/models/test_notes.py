"""What import had to change is told to whoever compiles."""

import corpus
import pytest

import lepton_compile

pytestmark = pytest.mark.models


def test_a_branch_that_cannot_work_is_told(tmp_path):
    """At 576 samples silero's 8 kHz branch fails in onnxruntime; here it gives NaN, and everybody is told."""
    compiled = lepton_compile.compile(corpus.model_path("silero"), shapes=corpus.shapes("silero"))
    (note,) = compiled.manifest["notes"]
    assert "gives NaN, because" in note
    assert f"note: {note}" in compiled.report


def test_passes_stand_in_the_manifest():
    compiled = lepton_compile.compile(corpus.model_path("ppocr-cls"), shapes=corpus.shapes("ppocr-cls"))
    steps = {step["pass"]: step for step in compiled.manifest["passes"]}
    assert "batch_normalization" in steps
    assert all(step["reason"] for step in steps.values())
    assert compiled.manifest["passes"] == compiled.plan["steps"]

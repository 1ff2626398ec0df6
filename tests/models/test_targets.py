"""One command for three machines: each gets a plan of its own, for reasons that name the figures that they rest on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import corpus
import numpy as np
import pytest
from corpus.samples import calibration_feeds

from lepton_compile.cli.main import main

pytestmark = pytest.mark.models

SAMPLES = 60
MODEL = "open-nsfw"
# As much as a Raspberry Pi 4's budget leaves of what the model takes there by the model of costs.
SHARE = 0.85


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration data, and target files."""
    made = tmp_path_factory.mktemp("targets")
    feeds = list(calibration_feeds(MODEL, SAMPLES))
    np.savez(made / "samples.npz", **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    exact = compiled(made, "raspberry-pi-4", "exact")
    (made / "pi.toml").write_text(
        f'extends = "raspberry-pi-4"\n[budget]\nlatency = "{SHARE * exact["milliseconds"]:.3f} ms"\n'
    )
    (made / "small.toml").write_text('extends = "x86-64-v3"\n[memory]\nsize = "64 MB"\n')
    return made


def compiled(folder: Path, target: str, name: str, *arguments: str) -> dict[str, object]:
    """What the command wrote: its manifest, plan, and the milliseconds of a run by the model of costs."""
    shapes = [f"{tensor}={','.join(map(str, shape))}" for tensor, shape in corpus.shapes(MODEL).items()]
    command = ["compile", str(corpus.model_path(MODEL)), "--target", target, "-o", str(folder / name)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--name", "model", "--shape", *shapes, "--tuning", "model", *arguments])
    assert ended.value.code == 0
    manifest, plan = (json.loads((folder / name / f"{file}.json").read_text()) for file in ("manifest", "plan"))
    return {"manifest": manifest, "plan": plan, "milliseconds": milliseconds_of(folder / name)}


def test_three_machines(folder: Path) -> None:
    common = ("--calibration", str(folder / "samples.npz"), "--budget", "drop=0.2")
    pi, vnni, small = (
        compiled(folder, target, name, *common)
        for target, name in (
            (str(folder / "pi.toml"), "pi"),
            ("x86-64-v4-vnni", "vnni"),
            (str(folder / "small.toml"), "small"),
        )
    )
    lossy = [[step for step in each["plan"]["steps"] if not step["exact"]] for each in (pi, vnni, small)]
    assert [[step["pass"] for step in steps] for steps in lossy] == [["channel_pruning"], ["quantization"], []]

    # The Pi's processor has no products of bytes: channels go until a run is as fast as the budget says.
    budget = SHARE * milliseconds_of(folder / "exact")
    assert pi["milliseconds"] <= budget + 1e-3
    assert f"and may take {budget:.3f} ms" in lossy[0][0]["reason"]
    assert any("no instruction that adds products" in each["reason"] for each in pi["plan"]["declined"])

    families = {kernel["family"] for kernel in vnni["manifest"]["kernels"]}
    assert "integer convolution" in families
    assert "ms become" in lossy[1][0]["reason"]

    # In 64 MB there is no room for what minimal filtering adds to the weights.
    choices = small["manifest"]["choices"]
    assert all("winograd" not in choice["taken"] for choice in choices)
    assert any(choice["passed_over"] == ["winograd: small weights"] for choice in choices)
    assert any("winograd" in choice["taken"] for choice in pi["manifest"]["choices"])
    assert peak(folder / "small", folder) < 64_000_000


def milliseconds_of(made: Path) -> float:
    """Of a run, by the model of costs."""
    steps = json.loads((made / "steps.json").read_text())["steps"]
    return 1e3 * sum(step["seconds"] or 0.0 for step in steps)


def peak(library: Path, folder: Path) -> int:
    """The largest resident set of a C program that runs a library once."""
    source = Path(__file__).parent / "run_files.c"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-std=c11", "-O1", "-DMODEL=model", '-DMODEL_HEADER="model.h"']
    link = [f"-I{library}", f"-L{library}", "-lmodel", f"-Wl,-rpath,{library}", "-o", "program"]
    subprocess.run([*compiler, source, *link], cwd=folder, check=True)
    for index, (name, shape) in enumerate(corpus.shapes(MODEL).items()):
        np.load(folder / "samples.npz")[name][0].reshape(shape).tofile(folder / f"input{index}.bin")
    run = subprocess.run([folder / "program"], cwd=folder, check=True, capture_output=True, text=True)
    return int(run.stdout.split()[-1]) * 1024

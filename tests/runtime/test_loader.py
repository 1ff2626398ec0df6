"""The loader on a device: numpy alone, one clear line for whatever is wrong."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lepton_compile.runtime import loader
from lepton_compile.runtime.loader import CompiledModel, LeptonError, ModelError, ShapeError, TargetError, load

HERE = Path(__file__).parent
COMPILER = [shutil.which("cc")] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "scale.lepton"
    folder.mkdir()
    library = folder / "libscale.so"
    subprocess.run([*COMPILER, "-shared", "-fPIC", "-O1", str(HERE / "scale.c"), "-o", str(library)], check=True)
    manifest = {
        "format": 1,
        "name": "scale",
        "triple": f"{platform.machine()}-linux-gnu",
        "target": {"name": "here"},
        "library": {
            "file": "libscale.so",
            "bytes": library.stat().st_size,
            "sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
        },
        "inputs": [
            {"name": "image", "dtype": "float32", "shape": [3, "n"]},
            {"name": "factor", "dtype": "int64", "shape": []},
        ],
        "outputs": [
            {"name": "scaled", "dtype": "float32", "shape": [3, "n"]},
            {"name": "threads", "dtype": "int32", "shape": []},
        ],
        "dimensions": ["n"],
        "model": {"sha256": "ab12"},
        "memory": {"weights_bytes": 5, "weights_sha256": "cd34", "arena_bytes": 1234},
        "kernels": [{"calls": 2, "operations": 10**9}],
        "notes": ["a branch gives NaN"],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "steps.json").write_text(json.dumps({"steps": [{"number": number} for number in range(3)]}))
    return folder


def image(n: int = 4) -> np.ndarray:
    return np.arange(3 * n, dtype=np.float32).reshape(3, n)


def test_a_model_runs(folder: Path) -> None:
    model = load(folder)
    outputs = model.run({"image": image(), "factor": 3})
    np.testing.assert_array_equal(outputs["scaled"], image() * 3)
    assert outputs["threads"] == 0
    assert outputs["threads"].shape == ()
    assert [str(tensor) for tensor in model.inputs] == ["image: float32[3, n]", "factor: int64[]"]
    assert "working memory 1,234 bytes" in model.report
    assert "2.000 GFLOP" in model.report
    assert "note: a branch gives NaN" in model.report
    assert model.plan is None


def test_threads_are_handed_on(folder: Path) -> None:
    model = load(folder, threads=2)
    arguments = {"image": image(), "factor": np.int64(1)}
    assert model.run(arguments)["threads"] == 2
    assert model.run(arguments, threads=5)["threads"] == 5
    assert model.run(arguments, threads=2**40)["threads"] == 256
    for threads in (0, -1):
        with pytest.raises(LeptonError, match=f"threads is {threads}; it must be at least 1"):
            load(folder, threads=threads)
    for wrong in ("2", 2.5, True):
        with pytest.raises(LeptonError, match=r"it must be a whole number, at least 1"):
            load(folder, threads=wrong)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="scale can not be set up: ninety-nine"):
        model.run(arguments, threads=99)


def test_few_instances_are_kept(folder: Path) -> None:
    model = load(folder)
    for threads in range(1, 9):
        assert model.run({"image": image(), "factor": np.int64(1)}, threads=threads)["threads"] == threads
    assert len(model._instances) == 2


def test_any_memory_will_do(folder: Path) -> None:
    model = load(folder)
    for array in (
        np.asfortranarray(image()),
        image(8)[:, ::2],
        np.lib.stride_tricks.as_strided(image(1), (3, 4), (4, 0)),
    ):
        np.testing.assert_array_equal(model.run({"image": array, "factor": 2})["scaled"], array * 2)
    raw = np.empty(49, np.uint8)
    misaligned = raw[1:].view(np.float32).reshape(3, 4)
    misaligned[...] = image()
    np.testing.assert_array_equal(model.run({"image": misaligned, "factor": 2})["scaled"], image() * 2)


def test_lists_are_taken_where_nothing_is_lost(folder: Path) -> None:
    model = load(folder)
    expected = np.array([[2.0], [4.0], [6.0]], np.float32)
    np.testing.assert_array_equal(model.run({"image": [[1], [2], [3]], "factor": 2})["scaled"], expected)
    np.testing.assert_array_equal(model.run({"image": [[1.0], [2.0], [3.0]], "factor": 2})["scaled"], expected)
    with pytest.raises(ShapeError, match="'factor' is float64"):
        model.run({"image": image(), "factor": 2.5})
    with pytest.raises(ShapeError, match="'image' is no array"):
        model.run({"image": [[1.0], [2.0, 3.0]], "factor": 2})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"imagee": image(), "factor": 1}, "scale has no input 'imagee'; did you mean 'image'?"),
        ({"zzz": image()}, "scale has no input 'zzz'; they are 'image', 'factor'"),
        ({"image": image()}, "input 'factor' is missing; it is factor: int64[]"),
        (
            {"image": np.zeros((2, 4), np.float32), "factor": 1},
            "input 'image' has shape [2, 4]; the model takes [3, 'n']",
        ),
        ({"image": np.zeros((3,), np.float32), "factor": 1}, "input 'image' has shape [3]; the model takes [3, 'n']"),
        ({"image": image().astype(np.float64), "factor": 1}, "convert it with .astype('float32')"),
        ({"image": image().astype(">f4"), "factor": 1}, "input 'image' is >f4"),
        ({"image": image(), "factor": np.zeros(1, np.int64)}, "input 'factor' has shape [1]; the model takes []"),
        ({"image": image(), "factor": np.int32(1)}, "input 'factor' is int32; the model takes int64"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(folder: Path, inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        load(folder).run(inputs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failure_of_the_library_is_told_in_its_words(folder: Path) -> None:
    with pytest.raises(LeptonError, match="scale can not be run: the factor is negative"):
        load(folder).run({"image": image(), "factor": -1})


def test_threads_may_call_one_model(folder: Path) -> None:
    model = load(folder)
    wrong = []

    def call(factor: int) -> None:
        for _ in range(200):
            if not np.array_equal(model.run({"image": image(), "factor": factor})["scaled"], image() * factor):
                wrong.append(factor)

    threads = [threading.Thread(target=call, args=(factor,)) for factor in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_profile_times_the_steps_that_run(folder: Path) -> None:
    model = load(folder)
    profile = model.profile({"image": image(), "factor": 2}, runs=3)
    assert [step["number"] for step in profile.steps] == [0, 2]
    np.testing.assert_allclose(profile.step_seconds, [[1.5e-6, 2.5e-6]] * 3)
    assert profile.run_seconds.shape == (3,) and (profile.run_seconds > 0).all()
    assert [step["number"] for step in model.profile({"image": image(), "factor": 3}, runs=1).steps] == [0]


def test_what_a_step_callback_raises_comes_out(folder: Path) -> None:
    model = load(folder)
    prepared = model.prepare({"image": image(), "factor": 2})
    calls = []

    def stop(number: int, nanoseconds: int) -> None:
        calls.append((number, nanoseconds))
        raise KeyError("enough")

    instance = model.create_instance()
    with pytest.raises(KeyError, match="enough"):
        instance.run(prepared, stop)
    instance.run(prepared)  # nobody is told any more
    assert calls == [(0, 1500)]


def test_what_cannot_be_profiled_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LeptonError, match="runs is 0; it must be at least 1"):
        load(folder).profile({"image": image(), "factor": 2}, runs=0)
    with pytest.raises(LeptonError, match="can not be run: the factor is negative"):
        load(folder).profile({"image": image(), "factor": -1})
    copy = changed(folder, tmp_path)
    for text, message in (("{}", "holds no steps"), ("{", "is damaged")):
        (copy / "steps.json").write_text(text)
        with pytest.raises(ModelError, match=message):
            load(copy).profile({"image": image(), "factor": 2})
    (copy / "steps.json").unlink()
    with pytest.raises(LeptonError, match="was compiled without profiles: compile it anew"):
        load(copy).profile({"image": image(), "factor": 2})
    np.testing.assert_array_equal(load(copy).run({"image": image(), "factor": 2})["scaled"], image() * 2)


def changed(folder: Path, tmp_path: Path, **changes: object) -> Path:
    copy = tmp_path / "copy.lepton"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return copy


def test_a_foreign_library_says_how_to_run_it(folder: Path, tmp_path: Path) -> None:
    model = load(changed(folder, tmp_path, triple="mips64-linux-gnu"))
    with pytest.raises(TargetError, match=r"compiled for mips64-linux-gnu.*device.*qemu-mips64"):
        model.run({"image": image(), "factor": 1})


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a file"):
        load(tmp_path / "file")
    with pytest.raises(ModelError, match=r"holds no compiled model: manifest.json is missing"):
        load(tmp_path)

    copy = changed(folder, tmp_path)
    library = copy / "libscale.so"
    data = bytearray(library.read_bytes())
    library.write_bytes(data[:-1])
    with pytest.raises(ModelError, match="damaged or mixed up"):
        load(copy)
    data[len(data) // 2] ^= 1
    library.write_bytes(data)
    with pytest.raises(ModelError, match="damaged or mixed up"):
        load(copy, verify=True)
    load(copy)
    library.unlink()
    with pytest.raises(ModelError, match="can not be read"):
        load(copy)
    messages = {
        "{": "is damaged",
        "[]": "is damaged",
        '{"format": 7}': "of format 7",
        '{"format": 1}': "not the manifest",
    }
    for text, message in messages.items():
        (copy / "manifest.json").write_text(text)
        with pytest.raises(ModelError, match=message):
            load(copy)
    (copy / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="is damaged"):
        load(copy)


@pytest.mark.parametrize(
    "changes", [{"model": {"sha256": "ab13"}}, {"memory": {"weights_sha256": "cd35"}}], ids=["model", "weights"]
)
def test_the_library_of_another_model_is_refused(folder: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    copy = changed(folder, tmp_path, **changes)
    for _ in range(2):
        with pytest.raises(ModelError, match="damaged or mixed up"):
            load(copy).run({"image": image(), "factor": 1})


def test_a_library_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    junk = b"not a library"
    facts = {"file": "libscale.so", "bytes": len(junk), "sha256": hashlib.sha256(junk).hexdigest()}
    copy = changed(folder, tmp_path, library=facts)
    (copy / "libscale.so").write_bytes(junk)
    with pytest.raises(TargetError, match="can not be loaded"):
        load(copy).run({"image": image(), "factor": 1})


def test_saving_onto_itself_changes_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    assert CompiledModel(folder).save(folder) == folder
    assert sorted(folder.iterdir()) == before


def test_a_device_needs_this_file_and_numpy_alone(folder: Path, tmp_path: Path) -> None:
    """Copied away from the package, it loads, runs, and imports nothing but the standard library and numpy."""
    shutil.copy(str(loader.__file__), tmp_path / "loader.py")
    script = (
        "import sys; before = set(sys.modules); import loader, numpy as np\n"
        f"model = loader.load({str(folder)!r})\n"
        "print(model.run({'image': np.ones((3, 2), 'float32'), 'factor': 7})['scaled'].sum())\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["42.0", "['loader', 'numpy']"]

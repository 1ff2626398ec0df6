"""The errors that a person meets on the device that runs a model, and the loader.

This file needs the standard library and numpy alone, and imports nothing else of lepton_compile.
"""

from __future__ import annotations

import ctypes
import difflib
import functools
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

_FORMAT = 1  # of the folder, as its manifest states it
_WARM_UP_SECONDS = 0.1
_MAX_INSTANCES = 2  # that a handle keeps, for numbers of threads that take turns
_MAX_THREADS = 256  # LEPTON_MAX_THREADS of the runtime, which takes no more than there are processors anyway

ALIGNMENT = 64
"""Bytes that an instance's working memory is aligned to."""


class LeptonError(Exception):
    """Anything that lepton_compile refuses or cannot do.

    The message is one clear line that says what is wrong and how to mend it. The facts behind it are attributes, so
    that a program need not parse the line.

    Attributes:
        facts: The facts by name; each is an attribute of the error as well.
    """

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(" ".join(message.split()))
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)


class ModelError(LeptonError):
    """The ONNX model cannot be read, or is not valid ONNX."""


class ShapeError(LeptonError):
    """A tensor has a shape that is unknown, contradictory or not the one asked for."""


class TargetError(LeptonError):
    """The target is unknown, wrongly described, or cannot do what is asked of it."""


class BuildError(LeptonError):
    """Something that should have worked did not: the fault is in the compiler, a plugin or a tool that it calls."""


class _Limits(ctypes.Structure):
    _fields_: ClassVar = [("latency_ns", ctypes.c_uint64), ("memory_bytes", ctypes.c_uint64)]


class _Options(ctypes.Structure):
    _fields_: ClassVar = [
        ("threads", ctypes.c_int32),
        ("parallel_for", ctypes.c_void_p),
        ("parallel_context", ctypes.c_void_p),
        ("arena", ctypes.c_void_p),
        ("arena_bytes", ctypes.c_size_t),
        ("limits", _Limits),  # which a library without variants does not read
    ]


class _Information(ctypes.Structure):
    """The first fields of NAME_information."""

    _fields_: ClassVar = [
        (name, ctypes.c_char_p) for name in ("name", "version", "target", "model_hash", "weights_hash")
    ]


_ON_STEP = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64)


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model.

    Attributes:
        name: As in the ONNX model.
        dtype: numpy's name of its element type.
        shape: Its sizes; a name where the size is given with the inputs.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(str(size) for size in self.shape)}]"

    @functools.cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The array type: bfloat16 travels as its bits where numpy does not know it."""
        try:
            return np.dtype(self.dtype)
        except TypeError:
            return np.dtype(np.uint16)


@dataclass(frozen=True)
class VariantFacts:
    """One of several variants of a model in a library.

    Attributes:
        name: What it is called.
        seconds: What a run takes on one thread, as measured or predicted where it was compiled.
        arena_bytes: Its working memory.
        weights_bytes: What it reads of the weights.
        memory_bytes: What an instance takes in all: arena, weights, and 64 KiB for itself.
    """

    name: str
    seconds: float
    arena_bytes: int
    weights_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Prepared:
    """Checked inputs, and memory for the outputs, that an instance can run on any number of times.

    Attributes:
        inputs: The arrays by name, in the library's order.
        outputs: The arrays that runs write to.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: Mapping[str, npt.NDArray[Any]]
    given: ctypes.Structure
    taken: ctypes.Structure


@dataclass(frozen=True)
class Profile:
    """How long each step of a model took, in several runs.

    Attributes:
        steps: The steps that ran, in order, as steps.json describes them: "number", "kernel", "family", "nodes",
            "operations", "blocks", "inputs" and "outputs".
        step_seconds: Seconds of every step in every run, float64 of shape [runs, steps].
        run_seconds: Seconds of every run, profiling included, float64 of shape [runs].
    """

    steps: tuple[Mapping[str, Any], ...]
    step_seconds: npt.NDArray[np.float64]
    run_seconds: npt.NDArray[np.float64]


class Instance:
    """What serves the runs of a model, one at a time.

    Raises:
        TargetError: When the library can not make one.
    """

    def __init__(
        self,
        name: str,
        library: ctypes.CDLL,
        threads: int,
        arena: npt.NDArray[np.uint8] | None = None,
        limits: tuple[int, int] = (0, 0),
    ) -> None:
        self._name = name
        self._library = library
        self._arena = arena  # the instance works in it
        self._run = self._function("run")
        self._handle = ctypes.c_void_p()
        options = _Options(threads=threads, limits=_Limits(*limits))
        if arena is not None:
            options.arena, options.arena_bytes = arena.ctypes.data, arena.nbytes
        if self._function("create")(ctypes.byref(options), ctypes.byref(self._handle)) != 0:
            raise TargetError(f"{name} can not be set up: {self._error(None)}", threads=threads)
        weakref.finalize(self, self._function("destroy"), self._handle)

    def run(self, prepared: Prepared, on_step: Callable[[int, int], None] | None = None) -> None:
        """Run once.

        Args:
            prepared: What `CompiledModel.prepare` gave.
            on_step: Called after every step with its number and its nanoseconds. What it raises ends the calls, and is
                raised again when the run is over.

        Raises:
            LeptonError: When the library refuses the values.
        """
        if on_step is None:
            status = self._run(self._handle, ctypes.byref(prepared.given), ctypes.byref(prepared.taken))
        else:
            status = self._run_profiled(prepared, on_step)
        if status != 0:
            raise LeptonError(f"{self._name} can not be run: {self._error(self._handle)}", status=status)

    def adapt(self, limits: tuple[int, int]) -> None:
        """Choose the variant for the next run anew; from any thread, and one call at a time.

        Args:
            limits: Nanoseconds of a run, and bytes; 0 where there is no limit.

        Raises:
            LeptonError: When there is no memory for any other variant; it is then as it was.
        """
        if self._function("adapt")(self._handle, ctypes.byref(_Limits(*limits))) != 0:
            raise LeptonError(f"{self._name} can not be adapted: {self._error(None)}", limits=limits)

    @property
    def taken(self) -> int:
        """The number of the variant that the next run takes; 0 where there is but one program."""
        return self._choice()[0]

    @property
    def within_limits(self) -> bool:
        """Whether that variant keeps the limits, and there is memory for it."""
        return self._choice()[1]

    def _choice(self) -> tuple[int, bool]:
        taken = getattr(self._library, f"{self._name}_taken", None)
        if taken is None:
            return 0, True
        within = ctypes.c_int32()
        return int(taken(self._handle, ctypes.byref(within))), bool(within.value)

    def _run_profiled(self, prepared: Prepared, on_step: Callable[[int, int], None]) -> int:
        raised: list[BaseException] = []

        def called(_context: object, number: int, nanoseconds: int) -> None:
            if raised:
                return
            try:
                on_step(number, nanoseconds)
            except BaseException as error:  # C can not pass it on
                raised.append(error)

        callback = _ON_STEP(called)
        set_profile = self._function("set_profile")
        set_profile(self._handle, ctypes.cast(callback, ctypes.c_void_p), None)
        try:
            status = int(self._run(self._handle, ctypes.byref(prepared.given), ctypes.byref(prepared.taken)))
        finally:
            set_profile(self._handle, None, None)
        if raised:
            raise raised[0]
        return status

    def _error(self, handle: ctypes.c_void_p | None) -> str:
        return bytes(self._function("error")(handle)).decode(errors="replace")

    def _function(self, name: str) -> Any:
        return getattr(self._library, f"{self._name}_{name}")


class CompiledModel:
    """A compiled model: a handle on the folder that holds its library.

    Calls from several threads take turns; load the folder once per thread to run at the same time (the weights are
    shared by the operating system).

    Attributes:
        folder: The artefact's folder.
        manifest: What the model was made from, what it needs and what it holds.
        plan: What was decided in compiling it and why; None when it was compiled without a plan.
        inputs: The inputs, in order.
        outputs: The outputs, in order.
        variants: The variants to choose from, the best first; empty where the library holds but one program.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int | None = None,
        latency_s: float | None = None,
        memory_bytes: int | None = None,
        verify: bool = False,
        keep: object = None,
    ) -> None:
        """Open a folder.

        Args:
            folder: What `save` or `lepton compile` wrote.
            threads: Threads to run on, at least 1. None, or more than there are processors that the process may use:
                one on each of those.
            latency_s: As for `adapt`.
            memory_bytes: As for `adapt`.
            verify: Whether to compare the library with its hash in the manifest, as `load` describes it.
            keep: Something that must live as long as this handle, such as the owner of a temporary folder.

        Raises:
            ModelError: When the folder holds no compiled model, or a damaged one.
            LeptonError: When `threads` or a limit is none that can be kept.
        """
        self.folder = Path(folder)
        self._threads = checked_threads(threads)
        self._keep = keep
        self.manifest = _read_manifest(self.folder)
        try:
            self.name = str(self.manifest["name"])
            self.inputs = tuple(Tensor(t["name"], t["dtype"], tuple(t["shape"])) for t in self.manifest["inputs"])
            self.outputs = tuple(Tensor(t["name"], t["dtype"], tuple(t["shape"])) for t in self.manifest["outputs"])
            self._dimensions = tuple(str(name) for name in self.manifest["dimensions"])
            self._triple = str(self.manifest["triple"])
            self.variants = tuple(_variant_facts(record) for record in self.manifest.get("variants", ()))
            facts = self.manifest["library"]
            self._library_file = self.folder / str(facts["file"])
            _check_library(self._library_file, int(facts["bytes"]), str(facts["sha256"]) if verify else None)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{self.folder / 'manifest.json'} is not the manifest of a compiled model ({error!r})", path=self.folder
            ) from error
        plan = self.folder / "plan.json"
        self.plan: dict[str, Any] | None = _read_json(plan) if plan.exists() else None
        self._lock = threading.Lock()  # held for a run
        self._setting_up = threading.Lock()  # held to make or adapt instances, which no run waits for
        self._library: ctypes.CDLL | None = None
        self._instances: dict[int, Instance] = {}
        self._limits = (0, 0)
        if latency_s is not None or memory_bytes is not None:
            self._limits = self._checked_limits(latency_s, memory_bytes)

    def __repr__(self) -> str:
        return f"CompiledModel({str(self.folder)!r})"

    @property
    def report(self) -> str:
        """What was compiled, for a person to read."""
        memory = self.manifest["memory"]
        kernels = self.manifest["kernels"]
        target = self.manifest["target"]
        lines = [
            f"{self.name} for {target.get('name', self._triple)} ({self._triple})",
            *(f"  input  {tensor}" for tensor in self.inputs),
            *(f"  output {tensor}" for tensor in self.outputs),
            f"  library {int(self.manifest['library']['bytes']):,} bytes, of which weights "
            f"{int(memory['weights_bytes']):,}; working memory {int(memory['arena_bytes']):,} bytes",
            f"  {sum(k['calls'] for k in kernels)} calls of {len(kernels)} kernels, "
            f"{sum(k['calls'] * k['operations'] for k in kernels) / 1e9:.3f} GFLOP",
            *(
                f"  variant {variant.name}: {variant.seconds * 1e3:.4g} ms on one thread, memory "
                f"{variant.memory_bytes:,} bytes"
                for variant in self.variants
            ),
            *(f"  note: {note}" for note in self.manifest["notes"]),
        ]
        return "\n".join(lines)

    def run(self, inputs: Mapping[str, npt.ArrayLike], *, threads: int | None = None) -> dict[str, npt.NDArray[Any]]:
        """Run the model once.

        Args:
            inputs: An array for every input, of its dtype and shape. Lists and numbers are converted where nothing is
                lost; arrays must have the dtype.
            threads: Threads to run on, in place of those given at loading.

        Returns:
            Every output by name, in memory of its own.

        Raises:
            ShapeError: When an input is missing, unknown, or of another dtype or shape.
            TargetError: When the library is for another machine.
        """
        prepared = self.prepare(inputs)
        with self._lock:
            self._opened(threads).run(prepared)
        return dict(prepared.outputs)

    def profile(self, inputs: Mapping[str, npt.ArrayLike], *, runs: int = 20, threads: int | None = None) -> Profile:
        """Run the model several times, and time every step of it.

        Runs that do not count come first, for at least 0.1 s, so that caches are filled and the processor is awake.

        Args:
            inputs: As for `run`.
            runs: How many runs to time, at least 1.
            threads: As for `run`.

        Raises:
            ShapeError, TargetError: As for `run`.
            LeptonError: When `runs` is less than 1, or the library was compiled without profiles.
        """
        if runs < 1:
            raise LeptonError(f"runs is {runs}; it must be at least 1", runs=runs)
        steps = self.steps
        prepared = self.prepare(inputs)
        step_seconds = np.full((runs, len(steps)), np.nan)
        run_seconds = np.empty(runs)
        with self._lock:
            instance = self._opened(threads)
            warm = time.perf_counter() + _WARM_UP_SECONDS
            instance.run(prepared)
            while time.perf_counter() < warm:
                instance.run(prepared)
            for run in range(runs):
                taken: dict[int, int] = {}
                begin = time.perf_counter()
                instance.run(prepared, taken.__setitem__)
                run_seconds[run] = time.perf_counter() - begin
                for number, nanoseconds in taken.items():
                    step_seconds[run, number] = nanoseconds / 1e9
        ran = ~np.isnan(step_seconds).all(axis=0)
        told = tuple(step for step, known in zip(steps, ran, strict=True) if known)
        return Profile(told, step_seconds[:, ran], run_seconds)

    @property
    def variant(self) -> VariantFacts | None:
        """The variant that the next run takes, on the threads given at loading; None where there is no choice.

        Raises:
            TargetError: As for `run`.
        """
        return self.variants[self._opened(None).taken] if self.variants else None

    def adapt(self, *, latency_s: float | None = None, memory_bytes: int | None = None) -> bool:
        """Have the next runs take the best variant that keeps these limits, in place of the earlier ones.

        What the processor can run, how many of them the process may use and the memory that is free are sensed anew.
        From any thread: a run that is on ends as it began, and no run waits.

        Args:
            latency_s: Seconds that a run may take; None: any time. A variant is taken to need its `seconds` divided by
                the threads, which is the best that could be.
            memory_bytes: What an instance may take with the weights that it reads, a variant's `memory_bytes`; None:
                what is free. There is an instance for each number of threads that runs ask for, two at most.

        Returns:
            Whether the variant taken keeps them; where none does, it is the one that comes nearest.

        Raises:
            LeptonError: When there are no variants, a limit is no number above 0, or there is no memory for another
                variant: runs go on with the one they have.
            TargetError: As for `run`.
        """
        limits = self._checked_limits(latency_s, memory_bytes)
        with self._setting_up:
            self._limits = limits
            for instance in self._instances.values():
                instance.adapt(limits)
        return self._opened(None).within_limits

    def _checked_limits(self, latency_s: float | None, memory_bytes: int | None) -> tuple[int, int]:
        """The limits as the library takes them."""
        if not self.variants:
            raise LeptonError(f"{self.name} holds no variants to choose from: compile it with several")
        for name, value in (("latency_s", latency_s), ("memory_bytes", memory_bytes)):
            number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < 2**63):
                raise LeptonError(f"{name} is {value!r}; it must be a number above 0", limit=name)
        nanoseconds = 0 if latency_s is None else min(max(1, round(latency_s * 1e9)), 2**63)
        return nanoseconds, 0 if memory_bytes is None else max(1, int(memory_bytes))

    @property
    def steps(self) -> tuple[Mapping[str, Any], ...]:
        """What each step of a run computes, as the folder's steps.json has it; of variants, one after the other.

        Raises:
            LeptonError: When the library was compiled without profiles.
        """
        path = self.folder / "steps.json"
        if not path.is_file():
            raise LeptonError(f"{self.folder} was compiled without profiles: compile it anew", path=path)
        try:
            return tuple(_read_json(path)["steps"])
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path} is damaged: it holds no steps", path=path) from error

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Copy the artefact to a folder, in place of a compiled model that may be there.

        Raises:
            LeptonError: When it can not be written; an existing folder is then as it was.
        """
        return replace_folder(self.folder, folder)

    def _checked(self, inputs: Mapping[str, npt.ArrayLike]) -> tuple[list[npt.NDArray[Any]], dict[str, int]]:
        """The arrays in the library's order, contiguous, and the sizes of the symbolic dimensions."""
        names = [tensor.name for tensor in self.inputs]
        for name in inputs:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
                hint = (
                    f"did you mean {' or '.join(map(repr, near))}?"
                    if near
                    else f"they are {', '.join(map(repr, names))}"
                )
                raise ShapeError(
                    f"{self.name} has no input {name!r}; {hint if names else 'it has no inputs'}",
                    tensor=name,
                    names=names,
                )
        arrays = []
        sizes: dict[str, int] = {}
        for tensor in self.inputs:
            if tensor.name not in inputs:
                raise ShapeError(f"input {tensor.name!r} is missing; it is {tensor}", tensor=tensor.name)
            array = _checked_array(tensor, inputs[tensor.name])
            fits = array.ndim == len(tensor.shape)
            for size, wanted in zip(array.shape, tensor.shape, strict=False):
                fits = fits and size == (wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size))
            if not fits:
                where = {name: size for name, size in sizes.items() if name in tensor.shape}
                note = f" with {', '.join(f'{n} = {s}' for n, s in where.items())}" if where else ""
                raise ShapeError(
                    f"input {tensor.name!r} has shape {list(array.shape)}; the model takes {list(tensor.shape)}{note}",
                    tensor=tensor.name,
                    shape=array.shape,
                    expected=tensor.shape,
                )
            suits = array.flags.c_contiguous and array.flags.aligned
            arrays.append(array if suits else np.require(array, requirements=["C", "A"]))
        return arrays, sizes

    def prepare(self, inputs: Mapping[str, npt.ArrayLike]) -> Prepared:
        """Check the inputs, and make memory for the outputs.

        Raises:
            ShapeError: As for `run`.
        """
        arrays, sizes = self._checked(inputs)
        results = {
            tensor.name: np.empty([sizes[d] if isinstance(d, str) else d for d in tensor.shape], tensor.numpy_dtype)
            for tensor in self.outputs
        }
        given = _struct(arrays, [sizes[name] for name in self._dimensions])
        named = dict(zip((tensor.name for tensor in self.inputs), arrays, strict=True))
        return Prepared(named, results, given, _struct(list(results.values()), []))

    def create_instance(self, threads: int | None = None, arena: npt.NDArray[np.uint8] | None = None) -> Instance:
        """An instance of its own, which may run at the same time as others.

        Args:
            threads: As for `run`.
            arena: Its working memory, aligned to `ALIGNMENT`, of at least the size that the manifest states; None: it
                allocates its own.

        Raises:
            TargetError: When the library is for another machine, or can not make one.
        """
        if self._library is None:
            library = _open_library(self._library_file, self.name, self._triple)
            self._check_identity(library)
            self._library = library
        count = self._threads if threads is None else checked_threads(threads)
        return Instance(self.name, self._library, count, arena, self._limits)

    def _check_identity(self, library: ctypes.CDLL) -> None:
        """Make sure that the library is of the model, and has the weights, that the manifest tells of."""
        information = getattr(library, f"{self.name}_info")().contents
        named = (information.model_hash.decode(), information.weights_hash.decode())
        if named != (self.manifest["model"]["sha256"], self.manifest["memory"]["weights_sha256"]):
            raise _mixed_up(self._library_file)

    def _opened(self, threads: int | None) -> Instance:
        """The instance with this many threads, made on its first use."""
        count = self._threads if threads is None else checked_threads(threads)
        with self._setting_up:
            if count not in self._instances:
                while len(self._instances) >= _MAX_INSTANCES:
                    del self._instances[next(iter(self._instances))]  # the oldest, with its memory and threads
                self._instances[count] = self.create_instance(threads)
            return self._instances[count]


def load(
    folder: str | os.PathLike[str],
    *,
    threads: int | None = None,
    latency_s: float | None = None,
    memory_bytes: int | None = None,
    verify: bool = False,
) -> CompiledModel:
    """Open a compiled model.

    Args:
        folder: What `CompiledModel.save` or `lepton compile` wrote.
        threads: Threads to run on, at least 1. None, or more than there are processors that the process may use: one on
            each of those.
        latency_s: Seconds that a run may take, for the choice among variants of the model: see `CompiledModel.adapt`.
        memory_bytes: What an instance may take, for the same.
        verify: Whether to compare the library with its hash in the manifest. That reads all of it, which takes longer
            than a first run of many models; otherwise its size is compared, and on the first run the hashes of the
            model and of the weights that it names.

    Raises:
        ModelError: When the folder holds no compiled model, or a damaged one.
        LeptonError: When `threads` or a limit is none that can be kept.
    """
    return CompiledModel(folder, threads=threads, latency_s=latency_s, memory_bytes=memory_bytes, verify=verify)


def _variant_facts(record: Mapping[str, Any]) -> VariantFacts:
    memory = record["memory"]
    sizes = (int(memory[name]) for name in ("arena_bytes", "weights_bytes", "peak_bytes"))
    return VariantFacts(str(record["name"]), float(record["seconds"]), *sizes)


def replace_folder(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> Path:
    """Copy an artefact to `destination`: written beside it, then renamed, so that a failure leaves it as it was.

    Args:
        source: The folder of a compiled model.
        destination: Where the copy goes; a compiled model or an empty folder there is replaced, nothing else.

    Raises:
        LeptonError: When `destination` is something else, or can not be written.
    """
    source = Path(source).absolute()
    destination = Path(destination).absolute()
    if destination.exists() and source.samefile(destination):
        return destination
    check_destination(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{destination.name}-", dir=destination.parent) as beside:
            # Not copytree: it would copy the mode of a temporary folder, which only its owner may enter.
            (Path(beside) / "new").mkdir()
            for file in sorted(source.iterdir()):
                _copy_file(file, Path(beside) / "new" / file.name)
            if destination.exists():
                destination.rename(Path(beside) / "old")
            try:
                (Path(beside) / "new").rename(destination)
            except OSError:
                if (Path(beside) / "old").exists():
                    (Path(beside) / "old").rename(destination)
                raise
    except (OSError, shutil.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LeptonError(f"{destination} can not be written: {reason}", path=destination) from error
    return destination


def _copy_file(source: Path, destination: Path) -> None:
    """Copy in large pieces: a file system keeps them as they were written, and maps large ones by huge pages."""
    with source.open("rb") as read, destination.open("xb", buffering=0) as written:
        shutil.copyfileobj(read, written, 8 << 20)
    shutil.copymode(source, destination)


def check_destination(folder: str | os.PathLike[str]) -> None:
    """Say before any work is done that a compiled model can not be written to a folder.

    Raises:
        LeptonError: The folder is a file, holds something else, or its parent can not be written.
    """
    folder = Path(folder).absolute()
    if folder.is_symlink() or folder.is_file():
        raise LeptonError(f"{folder} is a file; the compiled model needs a folder of that name", path=folder)
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / "manifest.json").is_file():
            raise LeptonError(f"{folder} holds other files than a compiled model; give another folder", path=folder)
    except OSError as error:
        raise LeptonError(f"{folder} can not be written: {error.strerror}", path=folder) from error
    parent = next(parent for parent in folder.parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise LeptonError(f"{folder} can not be written: {parent} is no folder that may be written to", path=folder)


def checked_threads(threads: int | None) -> int:
    """The number for the library, where 0 stands for one per processor."""
    if threads is None:
        return 0
    if not isinstance(threads, int | np.integer) or isinstance(threads, bool):
        raise LeptonError(f"threads is {threads!r}; it must be a whole number, at least 1", threads=threads)
    if threads < 1:
        raise LeptonError(f"threads is {threads}; it must be at least 1", threads=threads)
    return min(int(threads), _MAX_THREADS)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} holds no compiled model: {path.name} is missing", path=path) from error
    except OSError as error:
        raise ModelError(f"{path} can not be read: {error.strerror}", path=path) from error
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}", path=path) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is damaged: it holds no object", path=path)
    return value


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file, not the folder of a compiled model" if folder.exists() else "does not exist"
        raise ModelError(f"{folder} {what}", path=folder)
    manifest = _read_json(folder / "manifest.json")
    if manifest.get("format") != _FORMAT:
        raise ModelError(
            f"{folder} is of format {manifest.get('format')!r}; this version reads format {_FORMAT}: compile it anew",
            path=folder,
        )
    return manifest


def _check_library(path: Path, size: int, digest: str | None) -> None:
    try:
        actual = path.stat().st_size
        if actual == size and digest is not None:
            with path.open("rb") as stream:
                actual = size if hashlib.file_digest(stream, "sha256").hexdigest() == digest else -1
    except OSError as error:
        raise ModelError(f"the library {path} can not be read: {error.strerror}", path=path) from error
    if actual != size:
        raise _mixed_up(path)


def _mixed_up(path: Path) -> ModelError:
    return ModelError(f"the library {path} is not the one its manifest describes: it is damaged or mixed up", path=path)


def _open_library(path: Path, name: str, triple: str) -> ctypes.CDLL:
    architecture = triple.split("-")[0]
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if architecture != machine or not sys.platform.startswith("linux"):
        raise TargetError(
            f"{name} is compiled for {triple}, and this machine is {machine} ({sys.platform}): copy the folder to such "
            f"a device and load it there, or run a program that links it under an emulator (qemu-{architecture})",
            triple=triple,
            machine=machine,
        )
    try:
        library = ctypes.CDLL(str(path.absolute()))
    except OSError as error:
        raise TargetError(f"the library {path} can not be loaded: {error}", path=path) from error
    pointer = ctypes.c_void_p
    interface: tuple[tuple[str, Any, list[Any]], ...] = (
        ("create", ctypes.c_int, [pointer, pointer]),
        ("run", ctypes.c_int, [pointer, pointer, pointer]),
        ("destroy", None, [pointer]),
        ("error", ctypes.c_char_p, [pointer]),
        ("info", ctypes.POINTER(_Information), []),
        ("set_profile", None, [pointer, pointer, pointer]),
        ("adapt", ctypes.c_int, [pointer, pointer]),
        ("taken", ctypes.c_int32, [pointer, pointer]),
    )
    for function, result, arguments in interface:
        entry = getattr(library, f"{name}_{function}", None)
        if entry is not None:  # one without profiles has no set_profile, one without variants none of the last two
            entry.restype, entry.argtypes = result, arguments
    return library


def _checked_array(tensor: Tensor, value: npt.ArrayLike) -> npt.NDArray[Any]:
    wanted = tensor.numpy_dtype
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ShapeError(f"input {tensor.name!r} is no array: {error}", tensor=tensor.name) from error
        # Python's numbers have no dtype of their own: a list of floats is fine for float32, not for int64.
        if array.size == 0 or (array.dtype.kind in "biuf" and np.can_cast(array.dtype, wanted, "same_kind")):
            array = array.astype(wanted)
        elif array.dtype.kind in "iu" and wanted.kind in "iu":
            limits = np.iinfo(wanted)
            if limits.min <= array.min() and array.max() <= limits.max:
                array = array.astype(wanted)
    if array.dtype != wanted:
        raise ShapeError(
            f"input {tensor.name!r} is {array.dtype}; the model takes {tensor.dtype}: convert it with "
            f".astype({str(wanted)!r})",
            tensor=tensor.name,
            dtype=str(array.dtype),
            expected=tensor.dtype,
        )
    return array


def _struct(arrays: Sequence[npt.NDArray[Any]], sizes: Sequence[int]) -> ctypes.Structure:
    """NAME_inputs or NAME_outputs: pointers, then sizes of symbolic dimensions."""
    return _struct_type(len(arrays), len(sizes))(*(array.ctypes.data for array in arrays), *sizes)


@functools.cache  # making a type takes longer than running a small model
def _struct_type(pointers: int, integers: int) -> type[ctypes.Structure]:
    fields: list[tuple[str, type]] = [(f"p{index}", ctypes.c_void_p) for index in range(pointers)]
    fields += [(f"d{index}", ctypes.c_int32) for index in range(integers)]
    return type("_Struct", (ctypes.Structure,), {"_fields_": fields})

"""Search: plans with many settings of their passes, each made and measured, as long as there is time.

Which settings come next is chosen by a tree of Parzen estimators over several objectives (Ozaki et al.,
"Multiobjective tree-structured Parzen estimator", 2022), Optuna's: latency, size, memory, and what the metric drops.
What was tried is written down before the next begins, so that a search that is stopped goes on where it was, and one
that is done is not repeated.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lepton_compile.errors import LeptonError
from lepton_compile.planning.plan import Plan
from lepton_compile.planning.points import Point, Settings
from lepton_compile.reporting.quantities import format_seconds

if TYPE_CHECKING:
    import optuna

Knobs = Mapping[str, Sequence[object]]
"""What may be tried of each "pass.setting": what gives up nothing first."""

# So many settings in a row that were tried already end a search.
_REPETITIONS = 20
# What Optuna's journal, and the plans beside it, are called.
_JOURNAL = "journal.log"


def search(
    knobs: Knobs,
    evaluate: Callable[[Settings], Point],
    seconds: float,
    folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Point]:
    """Try settings until the time is up, or all of them are tried.

    Args:
        knobs: The settings.
        evaluate: Makes a plan with some of them, and measures it.
        seconds: How long to search; what earlier searches in the folder took counts.
        folder: Where to keep what is tried, and find what was; in memory where there is none, or it cannot be used.
        progress: Called with one line for each.

    Returns:
        What was tried, each settings once.

    Raises:
        LeptonError: Optuna is not installed.
    """
    folder = _usable(folder)
    if folder is None:
        return _search(knobs, evaluate, seconds, None, progress)
    lock = FileLock(folder / "lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if progress is not None:
            progress("waiting for another search that tries the same")
        held = lock.acquire()
    with held:
        _mend(folder / _JOURNAL)
        return _search(knobs, evaluate, seconds, folder, progress)


def _search(
    knobs: Knobs,
    evaluate: Callable[[Settings], Point],
    seconds: float,
    folder: Path | None,
    progress: Callable[[str], None] | None,
) -> list[Point]:
    study = _study(knobs, folder)
    found: dict[str, Point] = {}
    spent = 0.0
    for past in study.trials:
        if past.state.name == "RUNNING":  # of a search that was stopped: it is tried again
            study.tell(past.number, state=type(past.state).FAIL)
            if past.params.keys() == knobs.keys():
                study.enqueue_trial(past.params)
        elif past.state.name == "COMPLETE" and folder is not None:
            recalled = _recalled(past.user_attrs, folder / f"{past.number}.json")
            if recalled is not None:
                found[_key(recalled.settings)] = recalled
                spent += float(past.user_attrs["seconds"])
    if not study.trials:
        for corner in _corners(knobs):
            study.enqueue_trial(corner)
    repeated, everything = 0, math.prod(map(len, knobs.values()))
    while spent < seconds and repeated < _REPETITIONS and len(found) < everything:
        begin = time.perf_counter()
        trial = study.ask()
        settings = {name: _suggested(trial, name, values) for name, values in knobs.items()}
        known = found.get(_key(settings))
        point = known or evaluate(settings)
        taken = time.perf_counter() - begin
        if known is None and folder is not None:
            partial = folder / f"{trial.number}.partial"
            partial.write_text(point.plan.to_json(), "utf-8")
            partial.replace(folder / f"{trial.number}.json")
        for name, value in {**point.record(), "seconds": taken}.items():
            trial.set_user_attr(name, value)
        study.tell(trial, [*point.taken.values(), point.drop])
        found[_key(settings)] = point
        repeated = 0 if known is None else repeated + 1
        spent += taken
        if progress is not None and known is None:
            progress(f"search, {spent:.0f} of {seconds:.0f} s: {_told(point)}")
    return list(found.values())


def _mend(journal: Path) -> None:
    """Drop what a process that was killed had begun to write: a line without an end."""
    written = journal.read_bytes()
    if not written.endswith(b"\n"):
        journal.write_bytes(written[: written.rfind(b"\n") + 1])


def _usable(folder: Path | None) -> Path | None:
    """A folder that can be written to; None, with a warning, where it cannot."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _JOURNAL).open("ab").close()
    except OSError as error:
        warnings.warn(f"what the search tries cannot be kept in {folder}: {error.strerror}", stacklevel=3)
        return None
    return folder


def _study(knobs: Knobs, folder: Path | None) -> optuna.Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise LeptonError("a search needs Optuna: pip install 'lepton-compile[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=None if folder is None else JournalStorage(JournalFileBackend(str(folder / _JOURNAL))),
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=len(_corners(knobs))),
        study_name="plans",
        directions=["minimize"] * 4,
        load_if_exists=True,
    )


def _is_ordered(values: Sequence[object]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _suggested(trial: optuna.Trial, name: str, values: Sequence[object]) -> object:
    """One of the values: of numbers the sampler knows which are neighbours."""
    if _is_ordered(values):
        return values[trial.suggest_int(name, 0, len(values) - 1)]
    return trial.suggest_categorical(name, list(values))  # type: ignore[arg-type]


def _corners(knobs: Knobs) -> list[dict[str, object]]:
    """What is tried first: nothing given up; then of each setting alone, and of all, half and all that there is."""

    def place(values: Sequence[object], share: float) -> object:
        at = round(share * (len(values) - 1))
        return at if _is_ordered(values) else values[at]

    none = {name: place(values, 0.0) for name, values in knobs.items()}
    found = [none]
    for share in (1.0, 0.5):
        found += [none | {name: place(values, share)} for name, values in knobs.items()]
        found.append({name: place(values, share) for name, values in knobs.items()})
    return [corner for number, corner in enumerate(found) if corner not in found[:number]]


def _key(settings: Settings) -> str:
    return json.dumps(dict(settings), sort_keys=True)


def _recalled(told: Mapping[str, object], plan: Path) -> Point | None:
    """A point that was tried before; None where its plan cannot be read."""
    try:
        taken = {name: float(str(told[name])) for name in ("latency", "size", "memory")}
        settings = told["settings"]
        assert isinstance(settings, dict)
        return Point(settings, taken, float(str(told["drop"])), Plan.from_json(plan.read_text("utf-8")))
    except (OSError, KeyError, ValueError, AssertionError, LeptonError):
        return None


def _told(point: Point) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in point.settings.items())
    return f"{settings}: {format_seconds(point.taken['latency'])}, drop {point.drop:.4g}"

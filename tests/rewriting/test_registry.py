"""The registry: what entry points bring, and what is said about those that are broken."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import metadata

import pytest

from lepton_compile.errors import LeptonError, PassError
from lepton_compile.rewriting import Decline, Pass, Stage, create_pass, list_passes
from lepton_compile.rewriting.registry import registered_passes


@dataclass(frozen=True)
class Widen(Pass):
    """Widen things.

    More about it.
    """

    name = "widen"
    stage = Stage.PRUNE
    after = ("narrow",)
    width: int = 4
    axes: tuple[int, ...] = (0, 1)
    label: str = "a, b}"
    rate: float | None = None

    def propose(self, graph, target, context):
        return Decline("no")

    def run(self, graph, context):
        return graph


@dataclass(frozen=True)
class Nameless(Pass):
    stage = Stage.FUSE
    name = "another name"

    def propose(self, graph, target, context):
        return Decline("no")

    def run(self, graph, context):
        return graph


CLASSES = {"widen": Widen}


@pytest.fixture
def plugins(monkeypatch):
    """Replace the registered entry points."""

    def install(**values: str) -> None:
        points = [metadata.EntryPoint(name, value, "lepton_compile.passes") for name, value in values.items()]
        monkeypatch.setattr(metadata, "entry_points", lambda group: points)

    return install


def test_the_built_in_passes_are_registered_like_any():
    names = {entry.name for entry in list_passes()}
    assert {"batch_normalization", "constant_folding", "dead_nodes", "padding"} <= names
    assert all(not entry.error and entry.summary and entry.stage for entry in list_passes())
    assert [entry.name for entry in list_passes()] == sorted(names)


def test_a_listed_pass_says_what_it_is(plugins):
    plugins(widen=f"{__name__}:Widen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata.EntryPoint, "load", lambda self: Widen)
        (entry,) = list_passes()
    assert (entry.name, entry.stage, entry.after, entry.summary) == ("widen", Stage.PRUNE, ("narrow",), "Widen things.")
    assert entry.settings == {"width": 4, "axes": (0, 1), "label": "a, b}", "rate": None}


@pytest.mark.parametrize(
    "text",
    ["widen", "widen{width=8}", 'widen{width=8, axes=[2, 3], label="x}y", rate=0.5}', "widen { width=8 axes=[] }"],
)
def test_text_makes_a_pass_and_a_pass_makes_text(text):
    made = create_pass(text, CLASSES)
    assert isinstance(made, Widen)
    assert create_pass(str(made), CLASSES) == made
    assert made.width == (8 if "8" in text else 4)
    hash(made)


def test_a_pass_without_settings_prints_its_name():
    assert str(create_pass("dead_nodes")) == "dead_nodes"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widdn", "there is no pass 'widdn'; did you mean widen?"),
        ("quantize", "there is no pass 'quantize'; there are: widen"),
        ("widen{depth=1}", "pass 'widen' has no setting 'depth'; it has: width, axes, label, rate"),
        ("widen{width=}", "cannot be read"),
        ("widen{width}", "expected field=value"),
        ("widen{width=8", "does not describe a pass"),
        ("", "does not describe a pass"),
    ],
)
def test_wrong_text_gets_a_clear_line(text, message):
    with pytest.raises(LeptonError) as caught:
        create_pass(text, CLASSES)
    assert message in str(caught.value)
    assert not isinstance(caught.value, PassError)


def test_a_plugin_that_cannot_be_imported_is_named(plugins):
    plugins(broken="no_such_module:Broken")
    with pytest.raises(PassError, match=r"'broken'.*no_such_module.*mend or uninstall it"):
        registered_passes()
    (entry,) = list_passes()
    assert "no_such_module" in entry.error


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dataclasses:field", "is not a dataclass derived from"),
        ("lepton_compile.rewriting:Decline", "is not a dataclass derived from"),
        ("lepton_compile.passes.dead_nodes:DeadNodes", "needs name = 'wrong'"),
        ("lepton_compile.rewriting:Pass", "is not a dataclass derived from"),
    ],
)
def test_a_plugin_that_is_no_pass_is_named(plugins, value, message):
    plugins(wrong=value)
    with pytest.raises(PassError, match=f"'wrong'.*{message}"):
        registered_passes()


def test_two_packages_with_one_name(monkeypatch):
    one = metadata.EntryPoint("dead_nodes", "lepton_compile.passes.dead_nodes:DeadNodes", "lepton_compile.passes")
    two = metadata.EntryPoint("dead_nodes", "elsewhere:DeadNodes", "lepton_compile.passes")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [one, two])
    with pytest.raises(PassError, match="registered twice"):
        registered_passes()


def test_built_in_passes_are_frozen_and_know_their_order():
    classes = registered_passes()
    for cls in classes.values():
        assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
        assert set(cls.after) <= classes.keys()
        assert all(classes[name].stage is cls.stage for name in cls.after)

"""The errors that a person meets on the device that runs a model, and the loader.

This file needs the standard library and numpy alone, and imports nothing else of lepton_compile.
"""

from __future__ import annotations


class LeptonError(Exception):
    """Anything that lepton_compile refuses or cannot do.

    The message is one clear line that says what is wrong and how to mend it. The facts behind it are attributes, so that
    a program need not parse the line.

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

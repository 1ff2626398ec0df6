"""Indices of the axes of tensors, joined where they have to be removed together.

Every index of every axis of a tensor has a label. What an operator says about its operands joins labels: the channels
of a residual sum, an output of a convolution and the weights that it is read with. An index of a label that is frozen
stays, and the label knows why. `FIXED` is the label of what no channel is: positions, images, single numbers.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Labels: TypeAlias = npt.NDArray[np.int64]

FIXED = 0
"""The label of indices that are never removed and need no reason for that."""


class Channels:
    """Labels, joined and frozen: sets with a root (Galler and Fischer, "An improved equivalence algorithm", 1964)."""

    def __init__(self) -> None:
        self._parents = [FIXED]
        self._frozen: dict[int, str] = {FIXED: ""}

    def new(self, count: int) -> Labels:
        """Labels that nothing has."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def roots(self, labels: npt.NDArray[Any]) -> Labels:
        """One label for all that are joined."""
        return np.array([self._root(int(label)) for label in labels.reshape(-1)], np.int64).reshape(labels.shape)

    def join(self, ones: Labels, others: Labels, why: str) -> None:
        """Join labels pair by pair; what is joined with `FIXED` is frozen, for this reason."""
        if ones is others:
            return
        for one, other in zip(ones.tolist(), others.tolist(), strict=True):
            one, other = self._root(one), self._root(other)
            if one == other:
                continue
            if FIXED in (one, other):
                self._frozen.setdefault(one + other, why)
                continue
            one, other = min(one, other), max(one, other)
            self._parents[other] = one
            if other in self._frozen:
                reason = self._frozen.pop(other)
                self._frozen.setdefault(one, reason)

    def freeze(self, labels: npt.NDArray[Any], why: str) -> None:
        """Let indices stay, for this reason if there is no other yet."""
        for root in np.unique(self.roots(labels)).tolist():
            self._frozen.setdefault(root, why)

    def reason(self, root: int) -> str | None:
        """Why the indices of this root stay; None where they may go."""
        return self._frozen.get(root)

    def _root(self, label: int) -> int:
        while (parent := self._parents[label]) != label:
            self._parents[label] = self._parents[parent]
            label = parent
        return label


def is_fixed(labels: Labels) -> bool:
    """Whether no index is one of a channel."""
    return not labels.any()


def fixed(count: int) -> Labels:
    """Labels of indices that are no channels."""
    return np.zeros(count, np.int64)

"""Losses that know the tree of classes: broad mistakes cost more than fine ones, broad labels teach what they tell.

::

    cereals ─┬─ wheat            a pixel labelled wheat:    -log p(cereals) - e^-alpha log p(wheat | cereals)
             └─ barley           a pixel labelled cereals:  -log p(cereals)
    forest                       a pixel labelled forest:   -log p(forest)

A parent's probability is the sum of its classes'. A parent that is a class of its own stands for "one of these, not
known which" where it is a label.

Shape suffixes: B batch, K class, N node of the tree, H row, W column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from training.losses.masking import IGNORE, known_index, nothing, weighted_mean


@dataclass(frozen=True, eq=False)
class ClassTree:
    """The classes of a scheme and their parents.

    Attributes:
        names: Of the nodes: the classes in network order, then parents that are no classes.
        parent: (N) int64, the parent of each node, -1 = none.
        members: (N, K) bool, the classes of each node.
        depth: (N) int64, ancestors of each node.
    """

    names: tuple[str, ...]
    parent: NDArray[np.int64]
    members: NDArray[np.bool_]
    depth: NDArray[np.int64]

    @classmethod
    def of(cls, classes: ClassScheme) -> ClassTree:
        """Read the tree.

        Raises:
            InputError: If a class is its own ancestor.

        >>> from engine.values.classes import LandClass
        >>> tree = ClassTree.of(ClassScheme(classes=(
        ...     LandClass(value=1, name="wheat", colour="#aa0000", parent="cereals"),
        ...     LandClass(value=2, name="forest", colour="#003300"))))
        >>> tree.names, tree.parent.tolist(), tree.depth.tolist()
        (('wheat', 'forest', 'cereals'), [2, -1, -1], [1, 0, 0])
        """
        parents = {c.name: c.parent for c in classes.classes}
        names = tuple(dict.fromkeys([*parents, *filter(None, parents.values())]))
        at = {name: n for n, name in enumerate(names)}
        parent = np.array([at[p] if (p := parents.get(name)) else -1 for name in names], np.int64)
        members = np.zeros((len(names), len(parents)), np.bool_)
        for k in range(len(parents)):
            members[_path(parent, k, names), k] = True
        depth = np.array([len(_path(parent, n, names)) - 1 for n in range(len(names))], np.int64)
        return cls(names, parent, members, depth)

    @property
    def n_classes(self) -> int:
        """K."""
        return self.members.shape[1]

    def truths(self) -> NDArray[np.int64]:
        """Return what a label tells of each class, (K, K) label by class: 1 it is, 0 it is not, `IGNORE` not known.

        It is the class itself and all its ancestors; of its descendants nothing is known.

        >>> from engine.values.classes import LandClass
        >>> ClassTree.of(ClassScheme(classes=(
        ...     LandClass(value=1, name="wheat", colour="#aa0000", parent="cereals"),
        ...     LandClass(value=2, name="cereals", colour="#bb0000"),
        ...     LandClass(value=3, name="forest", colour="#003300")))).truths().tolist()
        [[1, 1, 0], [255, 1, 0], [0, 0, 1]]
        """
        k = self.n_classes
        below = self.members[:k]  # (K, K): row a holds its descendants and itself
        return np.where(below.T, 1, np.where(below, IGNORE, 0)).astype(np.int64)

    def coefficients(self, alpha: float) -> NDArray[np.float64]:
        """Return how much ``-log p`` of each node counts for a label, (K, N), see `hierarchical`."""
        found = np.zeros((self.n_classes, len(self.names)))
        weight = np.exp(-alpha * self.depth)
        for k in range(self.n_classes):
            before = 0.0
            for node in _path(self.parent, k, self.names):
                found[k, node] = weight[node] - before
                before = weight[node]
        return found


def hierarchical(
    logits_BKHW: torch.Tensor,
    target_BHW: torch.Tensor,
    tree: ClassTree,
    weights_K: torch.Tensor | None = None,
    weight_BHW: torch.Tensor | None = None,
    alpha: float = 0.3,
) -> torch.Tensor:
    """Return the hierarchical cross entropy over annotated pixels; 0 when there are none.

    Bertinetto et al. 2020, doi:10.1109/CVPR42600.2020.01252: the sum over the label's path of ``-exp(-alpha depth)
    log p(node | parent)``, the depth counted from the broadest classes down. With alpha 0 and labels without children
    it is `cross_entropy`; the larger alpha, the more does it cost to miss the broad class, and the less which of its
    classes it is.

    Args:
        logits_BKHW: Floating, of the classes.
        target_BHW: int64, class index, `IGNORE` = not annotated.
        tree: Of the classes.
        weights_K: Floating, one per class.
        weight_BHW: Floating, of each label, 0..1; None: all alike.
        alpha: At least 0.
    """
    if not bool((target_BHW != IGNORE).any()):
        return nothing(logits_BKHW)
    log_BKHW = torch.log_softmax(logits_BKHW, dim=1)
    index_BHW = known_index(target_BHW)
    coefficients_KN = torch.from_numpy(tree.coefficients(alpha)).to(logits_BKHW)
    each_BHW = torch.zeros_like(log_BKHW[:, 0])
    for node, members_K in enumerate(tree.members):
        of_node = torch.from_numpy(np.flatnonzero(members_K)).to(logits_BKHW.device)
        each_BHW = each_BHW - coefficients_KN[index_BHW, node] * log_BKHW[:, of_node].logsumexp(dim=1)
    if weights_K is not None:
        each_BHW = each_BHW * weights_K[index_BHW]
    return weighted_mean(each_BHW, target_BHW, weights_K, weight_BHW)


def _path(parent: NDArray[np.int64], node: int, names: tuple[str, ...]) -> list[int]:
    """Return a node and its ancestors."""
    path = [node]
    while (node := int(parent[node])) >= 0:
        if node in path:
            raise InputError(
                "a class is its own ancestor", where="classes.parent", found=[names[n] for n in [*path, node]]
            )
        path.append(node)
    return path

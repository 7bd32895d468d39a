"""The loss over the tree of classes, against a walk from the root down."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from tests.training.losses.cases import case
from training.losses import ClassTree, cross_entropy, hierarchical

PARENTS = {
    "wheat": "cereals", "barley": "cereals", "maize": "crops", "cereals": "crops", "forest": None, "lake": "water",
}  # fmt: skip


def _scheme(parents: dict[str, str | None]) -> ClassScheme:
    rows = enumerate(parents.items(), 1)
    return ClassScheme(
        classes=tuple(LandClass(value=i, name=n, colour="#102030", parent=p) for i, (n, p) in rows)
    )


def _walk(p: dict[str, float], label: str, alpha: float) -> float:
    """Go from the root to the label; each step costs by how many there are above the node it ends at."""
    children: dict[str | None, set[str]] = {}
    for name, parent in PARENTS.items():
        children.setdefault(parent, set()).add(name)
    for root in ("crops", "water"):
        children[None].add(root)

    def share(node: str) -> float:
        return p.get(node, 0.0) + sum(share(c) for c in children.get(node, ()))

    def depth(node: str) -> int:
        above = PARENTS.get(node)
        return 0 if above is None else 1 + depth(above)

    parent = PARENTS.get(label)
    above = share(parent) if parent else 1.0
    own = -np.exp(-alpha * depth(label)) * np.log(share(label) / above)
    return own + (_walk(p, parent, alpha) if parent else 0.0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.5])
def test_each_label_costs_the_steps_down_to_it(alpha: float) -> None:
    made = case(len(PARENTS))
    p, truth, weight = made.flat()
    names, classes = list(PARENTS), made.weights.numpy()[truth]
    each = [
        _walk(dict(zip(names, row, strict=True)), names[k], alpha) for row, k in zip(p, truth, strict=True)
    ]
    expected = (np.array(each) * classes * weight).sum() / (classes * weight).sum()
    tree = ClassTree.of(_scheme(PARENTS))
    found = hierarchical(made.logits, made.target, tree, made.weights, made.weight, alpha)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-9)


def test_classes_without_parents_give_the_cross_entropy() -> None:
    made = case()
    tree = ClassTree.of(_scheme({"a": None, "b": None, "c": None}))
    torch.testing.assert_close(
        hierarchical(made.logits, made.target, tree), cross_entropy(made.logits, made.target)
    )


def test_a_broad_label_does_not_say_which_of_its_classes_it_is() -> None:
    """The gradient moves the probability of the group, and leaves the shares within it."""
    tree = ClassTree.of(_scheme(PARENTS))
    logits = torch.zeros(1, len(PARENTS), 1, 1, dtype=torch.float64, requires_grad=True)
    cereals = torch.tensor([[[list(PARENTS).index("cereals")]]])
    hierarchical(logits, cereals, tree).backward()
    gradient = dict(zip(PARENTS, logits.grad.flatten().tolist(), strict=True))  # type: ignore[union-attr]
    assert gradient["wheat"] == pytest.approx(gradient["barley"])
    assert gradient["wheat"] == pytest.approx(gradient["cereals"])
    assert gradient["wheat"] < 0 < gradient["maize"]


def test_the_more_alike_mistake_is_the_cheaper_one() -> None:
    tree = ClassTree.of(_scheme(PARENTS))
    names = list(PARENTS)
    wheat = torch.tensor([[[names.index("wheat")]]])

    def cost(believed: str) -> float:
        logits = torch.zeros(1, len(names), 1, 1, dtype=torch.float64)
        logits[0, names.index(believed)] = 4.0
        return hierarchical(logits, wheat, tree).item()

    assert cost("wheat") < cost("barley") < cost("maize") < cost("forest")


def test_gradients_match_differences() -> None:
    made, tree = case(len(PARENTS)), ClassTree.of(_scheme(PARENTS))
    assert torch.autograd.gradcheck(
        lambda z: hierarchical(z, made.target, tree, made.weights, made.weight), (made.logits,)
    )


def test_a_class_that_is_its_own_ancestor_is_refused() -> None:
    with pytest.raises(InputError, match="own ancestor"):
        ClassTree.of(_scheme({"a": "b", "b": "a"}))

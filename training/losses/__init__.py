"""Losses over annotated pixels only, each with weights of classes and of labels; `options` names them in a YAML."""

from training.losses.hierarchy import ClassTree, hierarchical
from training.losses.masking import IGNORE
from training.losses.partial import Positives, positive_unlabelled
from training.losses.pixels import cross_entropy, focal, multi_label
from training.losses.regions import dice, lovasz
from training.losses.weights import WeightKind, class_weights

__all__ = [
    "IGNORE",
    "ClassTree",
    "Positives",
    "WeightKind",
    "class_weights",
    "cross_entropy",
    "dice",
    "focal",
    "hierarchical",
    "lovasz",
    "multi_label",
    "positive_unlabelled",
]

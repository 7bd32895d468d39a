"""Classifiers of scikit-learn as ONNX: a fitted estimator becomes a graph without code.

A pickle (or joblib file) of an estimator may run code when it is opened, so none is ever opened here: the
estimator comes as a living object from the program that fitted it. Its numbers go into one of two graphs::

    linear, multi-layer    scaling ─ Gemm ─ (activation ─ Gemm ...) ─ softmax     in float64, as scikit-learn
    trees, forests, HGB    scaling is folded into the thresholds ─ one ensemble   ─ (softmax)

A tree asks ``scaled(x) <= threshold`` in float64 (forests: after rounding to float32); the graph asks
``x <= t`` in float32. `t` is found by bisection over all float32 numbers as the largest for which the
estimator's own question is answered with yes, so that each pixel falls into exactly the leaf where
scikit-learn puts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.inference.bundle import Bundle, BundleFields, create_onnx_bundle
from engine.inference.manifest import Layout
from engine.values.errors import DataError, InputError
from engine.values.lattice import Lattice

_OPSET, _ML_OPSET, _IR = 17, 3, 10
_FORESTS = ("RandomForestClassifier", "ExtraTreesClassifier", "DecisionTreeClassifier")
_SUPPORTED = (*_FORESTS, "HistGradientBoostingClassifier", "LogisticRegression", "MLPClassifier")
_SCALERS = ("StandardScaler", "MinMaxScaler")
_PROBE_ROWS = 512
TOLERANCE = 1e-5
"""Largest difference of a probability that `bundle_sklearn` accepts between graph and estimator."""

Scale = Callable[[NDArray[np.float64], NDArray[np.intp]], NDArray[np.float64]]
"""Scale values of given features as the pipeline does, in float64."""


def bundle_sklearn(folder: str | Path, estimator: Any, fields: BundleFields) -> Bundle:
    """Write a fitted scikit-learn classifier on pixels as a bundle.

    The features of a pixel are all bands of the first date, then of the second, as ``fields.normalisation``
    makes them (``Standard`` with mean 0 and deviation 1 leaves reflectance x 10000 as it is); 0 where a date has
    no data. Fit the estimator on just these.

    Args:
        folder: Made if need be.
        estimator: Fitted: a random or extra-trees forest, a decision tree, HistGradientBoosting (without
            categories), LogisticRegression or MLPClassifier; or a pipeline of StandardScaler or MinMaxScaler
            and one of these. Its classes in their order are those of ``fields.classes``, by value or name,
            or 0, 1, 2, ...
        fields: Everything else; the lattice is set to single pixels.

    Returns:
        The bundle.

    Raises:
        InputError: If the estimator is another, is not fitted, or does not fit the fields.
        DataError: If the graph's probabilities differ from the estimator's by more than `TOLERANCE` on
            random rows.
    """
    _check_classes(estimator, fields)
    n_planes = len(fields.planes or fields.spec.bands)
    n_features = n_planes * (fields.n_dates or 0)
    if getattr(estimator, "n_features_in_", None) != n_features:
        raise InputError(
            "the estimator was fitted on another number of features",
            where="estimator.n_features_in_",
            found=getattr(estimator, "n_features_in_", "not fitted"),
            limit=f"{n_features} ({fields.n_dates} dates x {n_planes} bands)",
        )
    content = to_onnx(estimator)
    _compare(content, estimator, fields)
    layout = Layout(order="NF", output="probabilities", class_axis=1)
    name = type(_steps(estimator)[-1]).__name__
    return create_onnx_bundle(
        folder, content, layout, replace(fields, lattice=Lattice(1, 0)), architecture=name
    )


def to_onnx(estimator: Any) -> bytes:
    """Write a fitted classifier as ONNX: float32 (rows, features) to float32 probabilities (rows, classes).

    Raises:
        InputError: If the estimator is not one of those of `bundle_sklearn`.
    """
    *scalers, model = _steps(estimator)
    kind = type(model).__name__
    unknown = [type(s).__name__ for s in scalers if type(s).__name__ not in _SCALERS]
    if kind not in _SUPPORTED or unknown:
        raise InputError(
            "no way to write this estimator as ONNX",
            where="estimator",
            found=", ".join([*unknown, kind]),
            limit=", ".join((*_SUPPORTED, *_SCALERS)),
            mend="convert it with skl2onnx, and give the file to `landweave bundle create`",
        )
    graph = _Graph()
    if kind in _FORESTS:
        _forest(graph, model, scalers)
    elif kind == "HistGradientBoostingClassifier":
        _boosted(graph, model, scalers)
    else:
        _layers(graph, model, scalers)
    return graph.to_bytes(int(estimator.n_features_in_), len(estimator.classes_))


@dataclass
class _Graph:
    """Nodes and constants of an ONNX graph that grows from ``features``."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    last: str = "features"

    def add(self, kind: str, *constants: NDArray[Any], domain: str = "", **attributes: Any) -> str:
        """Append a node that takes the last result and constants; return its result's name."""
        onnx = _onnx()
        names = [f"c{len(self.constants) + i}" for i in range(len(constants))]
        self.constants += [onnx.numpy_helper.from_array(c, n) for c, n in zip(constants, names, strict=True)]
        result = f"r{len(self.nodes)}"
        self.nodes.append(
            onnx.helper.make_node(kind, [self.last, *names], [result], domain=domain, **attributes)
        )
        self.last = result
        return result

    def join(self, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Append a node on named results."""
        result = f"r{len(self.nodes)}"
        self.nodes.append(_onnx().helper.make_node(kind, list(inputs), [result], **attributes))
        self.last = result

    def cast(self, dtype: str) -> None:
        """Append a cast to ``FLOAT`` or ``DOUBLE``."""
        self.add("Cast", to=getattr(_onnx().TensorProto, dtype))

    def to_bytes(self, n_features: int, n_classes: int) -> bytes:
        """Close the graph."""
        onnx = _onnx()
        helper, real = onnx.helper, onnx.TensorProto.FLOAT
        self.add("Identity")
        graph = helper.make_graph(
            self.nodes,
            "classifier",
            [helper.make_tensor_value_info("features", real, ["rows", n_features])],
            [helper.make_tensor_value_info(self.last, real, ["rows", n_classes])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="landweave")
        onnx.checker.check_model(model)
        found: bytes = model.SerializeToString()
        return found


@dataclass
class _Trees:
    """Nodes of all trees, as the operator wants them: one list for each property."""

    scale: Scale
    rounds: bool
    columns: dict[str, list[Any]] = field(default_factory=dict)
    count: int = 0

    def add(
        self, tree: dict[str, NDArray[Any]], leaf_values: NDArray[np.float64], targets: Sequence[int]
    ) -> None:
        """Add a tree: feature, threshold (float64), left, right, leaf (bool), a value per node and target."""
        n, leaf = len(tree["leaf"]), tree["leaf"]
        threshold = np.zeros(n, np.float32)
        inner = ~leaf
        threshold[inner] = largest_float32(
            tree["feature"][inner].astype(np.intp), tree["threshold"][inner], self.scale, rounds=self.rounds
        )
        self._extend(
            nodes_treeids=np.full(n, self.count),
            nodes_nodeids=np.arange(n),
            nodes_featureids=np.where(leaf, 0, tree["feature"]),
            nodes_values=threshold,
            nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ"),
            nodes_truenodeids=np.where(leaf, 0, tree["left"]),
            nodes_falsenodeids=np.where(leaf, 0, tree["right"]),
        )
        leaves = np.flatnonzero(leaf)
        self._extend(
            target_treeids=np.full(len(leaves) * len(targets), self.count),
            target_nodeids=np.repeat(leaves, len(targets)),
            target_ids=np.tile(np.asarray(targets), len(leaves)),
            target_weights=leaf_values[leaves].astype(np.float32).ravel(),
        )
        self.count += 1

    def _extend(self, **columns: NDArray[Any]) -> None:
        for name, column in columns.items():
            self.columns.setdefault(name, []).extend(column.tolist())


def largest_float32(
    feature: NDArray[np.intp], threshold: NDArray[np.float64], scale: Scale, *, rounds: bool
) -> NDArray[np.float32]:
    """Find, for each question, the largest float32 `x` with ``scale(x) <= threshold``.

    Args:
        feature: (n,) which feature is asked for.
        threshold: (n,) float64.
        scale: The pipeline's scaling; must not fall as `x` rises.
        rounds: Whether the scaled value is rounded to float32 before it is compared (trees of forests).

    Returns:
        (n,) float32.

    >>> same = lambda x, feature: x
    >>> t = np.array([0.1, 2.5])
    >>> float(largest_float32(np.array([0, 0]), t, same, rounds=False)[0]) <= 0.1
    True
    """
    low = np.full(len(feature), _key(np.float32(-3.0e38)), np.int64)
    high = np.full(len(feature), _key(np.float32(3.0e38)), np.int64)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        scaled = scale(_from_key(middle).astype(np.float64), feature)
        yes = (scaled.astype(np.float32) if rounds else scaled) <= threshold
        low, high = np.where(yes, middle, low), np.where(yes, high, middle)
    return _from_key(low)


def _key(value: np.float32) -> int:
    """Number a float32 so that numbers rise with values."""
    bits = int(np.array(value, np.float32).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _from_key(key: NDArray[np.int64]) -> NDArray[np.float32]:
    magnitude = np.abs(key).astype(np.uint32).view(np.float32)
    return np.where(key < 0, -magnitude, magnitude)


def _forest(graph: _Graph, model: Any, scalers: list[Any]) -> None:
    """Average of the trees' class shares (Breiman 2001)."""
    trees = _Trees(_scaling(scalers), rounds=True)
    members = getattr(model, "estimators_", [model])
    for member in members:
        tree = member.tree_
        if tree.n_outputs != 1:
            raise InputError("an estimator of several outputs", where="estimator", limit="one output")
        share = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
        nodes = {
            "feature": tree.feature,
            "threshold": tree.threshold,
            "left": tree.children_left,
            "right": tree.children_right,
            "leaf": tree.children_left < 0,
        }
        trees.add(nodes, share / len(members), range(share.shape[1]))
    _ensemble(graph, trees, len(model.classes_))


def _boosted(graph: _Graph, model: Any, scalers: list[Any]) -> None:
    """Sum of the trees' scores, then sigmoid or softmax (Friedman 2001)."""
    trees = _Trees(_scaling(scalers), rounds=False)
    for stage in model._predictors:
        for target, predictor in enumerate(stage):
            nodes = predictor.nodes
            if nodes["is_categorical"].any():
                raise InputError("categories have no place in a pixel's features", where="estimator")
            tree = {
                "feature": nodes["feature_idx"],
                "threshold": nodes["num_threshold"],
                "left": nodes["left"].astype(np.int64),
                "right": nodes["right"].astype(np.int64),
                "leaf": nodes["is_leaf"].astype(bool),
            }
            trees.add(tree, nodes["value"][:, None], [target])
    base = np.asarray(model._baseline_prediction, np.float32).ravel()
    _ensemble(graph, trees, len(base), base_values=base.tolist())
    graph.cast("DOUBLE")
    _probabilities(graph, len(base))


def _ensemble(graph: _Graph, trees: _Trees, n_targets: int, **attributes: Any) -> None:
    """Append one ensemble of all trees, which adds up the leaves of each target."""
    graph.add(
        "TreeEnsembleRegressor",
        domain="ai.onnx.ml",
        n_targets=n_targets,
        aggregate_function="SUM",
        post_transform="NONE",
        **trees.columns,
        **attributes,
    )


def _layers(graph: _Graph, model: Any, scalers: list[Any]) -> None:
    """Linear maps with an activation between them, in float64."""
    graph.cast("DOUBLE")
    for add, multiply in map(_affine, scalers):
        graph.add("Add", add)
        graph.add("Mul", multiply)
    if type(model).__name__ == "LogisticRegression":
        weights, biases, between = [model.coef_.T], [model.intercept_], ""
    else:
        weights, biases = list(model.coefs_), list(model.intercepts_)
        between = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": ""}[model.activation]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if number and between:
            graph.add(between)
        graph.add("Gemm", np.asarray(weight, np.float64), np.asarray(bias, np.float64))
    _probabilities(graph, len(biases[-1]))


def _probabilities(graph: _Graph, n_scores: int) -> None:
    """Softmax of several scores, or both sides of the sigmoid of one; float32."""
    if n_scores > 1:
        graph.add("Softmax", axis=1)
    else:
        second = graph.add("Sigmoid")
        graph.add("Neg")
        first = graph.add("Add", np.ones(1))
        graph.join("Concat", [first, second], axis=1)
    graph.cast("FLOAT")


def _steps(estimator: Any) -> list[Any]:
    """Return the steps of a pipeline, or the estimator alone; ``passthrough`` is left out."""
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    return [step for step in steps if step is not None and step != "passthrough"]


def _affine(scaler: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what a scaler adds to a feature, and by what it multiplies then."""
    n = int(scaler.n_features_in_)
    if type(scaler).__name__ == "MinMaxScaler":
        return np.asarray(scaler.min_ / scaler.scale_, np.float64), np.asarray(scaler.scale_, np.float64)
    mean = scaler.mean_ if scaler.with_mean else np.zeros(n)
    deviation = scaler.scale_ if scaler.with_std else np.ones(n)
    return -np.asarray(mean, np.float64), 1.0 / np.asarray(deviation, np.float64)


def _scaling(scalers: list[Any]) -> Scale:
    """Return the pipeline's scaling of single values, operation by operation as scikit-learn does it."""

    def scale(values: NDArray[np.float64], feature: NDArray[np.intp]) -> NDArray[np.float64]:
        for scaler in scalers:
            if type(scaler).__name__ == "MinMaxScaler":
                values = values * scaler.scale_[feature] + scaler.min_[feature]
                continue
            values = values - scaler.mean_[feature] if scaler.with_mean else values
            values = values / scaler.scale_[feature] if scaler.with_std else values
        return values

    return scale


def _check_classes(estimator: Any, fields: BundleFields) -> None:
    """Refuse classes in another order than the estimator's: every label of the map would be wrong."""
    found = list(np.asarray(getattr(estimator, "classes_", [])).tolist())
    scheme = fields.classes
    if found not in ([*scheme.values], [*scheme.names], [*range(len(scheme.names))]):
        raise InputError(
            "the class scheme is not in the order of the estimator's classes",
            where="classes",
            found=found or "an estimator that is not fitted",
            limit=f"{[*scheme.values]} or {[*scheme.names]}",
            mend="write the scheme in the order of estimator.classes_",
        )


def _compare(content: bytes, estimator: Any, fields: BundleFields) -> None:
    """Compare graph and estimator on random reflectance, some dates of it missing."""
    import onnxruntime
    import torch

    from engine.models.normalise import prepare

    rng, dates, bands = np.random.default_rng(0), fields.n_dates or 1, len(fields.planes or fields.spec.bands)
    pixels = rng.integers(1, 10_000, (_PROBE_ROWS, dates, bands, 1, 1)).astype(np.uint16)
    pixels[rng.random((_PROBE_ROWS, dates)) < 0.1] = 0
    x_BTCHW, _ = prepare(torch.tensor(pixels), fields.normalisation)
    rows = x_BTCHW.reshape(_PROBE_ROWS, -1).numpy()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"features": rows})
    worst = float(np.abs(found - estimator.predict_proba(rows.astype(np.float64))).max())
    if not worst <= TOLERANCE:
        raise DataError(
            "the graph does not answer as the estimator does",
            where=type(_steps(estimator)[-1]).__name__,
            found=f"a probability differs by {worst:.2g}",
            limit=TOLERANCE,
            mend="this version of scikit-learn may be newer than what is known here; convert with skl2onnx",
        )


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            "writing ONNX needs the package onnx", where="onnx", mend="pip install onnx"
        ) from error
    return onnx

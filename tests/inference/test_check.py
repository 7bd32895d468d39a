"""The examination of a bundle finds what it is there to find; exports answer as the network does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from safetensors import safe_open

from engine.inference.bundle import Bundle, create_onnx_bundle, load_bundle
from engine.inference.check import Finding, check_bundle, drawn_days, drawn_windows
from engine.inference.export import export_bundle
from engine.inference.foreign import PRESTO_REACH, presto
from engine.inference.lane import Lane
from engine.inference.manifest import Layout
from engine.inference.state import read_state_dict
from engine.values.errors import InputError
from engine.values.head import MultiLabel
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from tests.inference.bundles import FIELDS, random_bundle


def _failed(findings: list[Finding]) -> set[str]:
    return {f.name for f in findings if f.passed is False}


def test_a_good_bundle_passes_everything(tmp_path: Path) -> None:
    findings = check_bundle(random_bundle(tmp_path / "b"))
    assert _failed(findings) == set()
    names = {f.name for f in findings if f.passed}
    assert {"STAC item", "MLM fields", "weights", "runs", "repeats itself", "slots are independent"} <= names


def test_every_kind_of_answer_is_a_task_of_the_extension(tmp_path: Path) -> None:
    findings = check_bundle(random_bundle(tmp_path / "b", head=MultiLabel()))
    assert _failed(findings) == set()


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("mlm:tasks", ["weather-forecast"], "MLM fields"),
        ("mlm:framework_version", "newest", "MLM fields"),
        ("mlm:architecture", None, "MLM fields"),
        ("datetime", "yesterday", "STAC item"),
    ],
)
def test_a_manifest_that_is_no_stac_mlm_item_is_found(
    tmp_path: Path, field: str, value: Any, named: str
) -> None:
    bundle = random_bundle(tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    item = json.loads(path.read_text())
    item["properties"][field] = value
    path.write_text(json.dumps(item))
    assert _failed(check_bundle(bundle)) == {named}


def _graph(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto] | None = None) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants or [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return model.SerializeToString()


def _foreign(folder: Path, nodes: list[onnx.NodeProto]) -> Bundle:
    four = onnx.numpy_helper.from_array(np.array([0, 1, 2, 3]), "four")
    return create_onnx_bundle(folder, _graph(nodes, [four]), Layout(order="NCHW"), FIELDS)


def test_a_network_that_draws_lots_is_found(tmp_path: Path) -> None:
    first = helper.make_node("Gather", ["x", "four"], ["part"], axis=1)
    noise = helper.make_node("RandomNormalLike", ["part"], ["noise"])
    add = helper.make_node("Add", ["part", "noise"], ["y"])
    assert "repeats itself" in _failed(check_bundle(_foreign(tmp_path / "b", [first, noise, add])))


def test_a_network_that_mixes_a_batch_is_found(tmp_path: Path) -> None:
    first = helper.make_node("Gather", ["x", "four"], ["part"], axis=1)
    mean = helper.make_node("ReduceMean", ["part"], ["mean"], axes=[0], keepdims=1)
    add = helper.make_node("Sub", ["part", "mean"], ["y"])
    assert "neighbours do not matter" in _failed(check_bundle(_foreign(tmp_path / "b", [first, mean, add])))


def test_answers_that_are_not_finite_or_of_another_shape_are_found(tmp_path: Path) -> None:
    first = helper.make_node("Gather", ["x", "four"], ["part"], axis=1)
    log = helper.make_node("Log", ["part"], ["y"])
    assert _failed(check_bundle(_foreign(tmp_path / "a", [first, log]))) == {"runs"}
    same = helper.make_node("Identity", ["x"], ["y"])
    assert _failed(check_bundle(_foreign(tmp_path / "b", [same]))) == {"runs"}


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_an_exported_network_answers_as_the_network(tmp_path: Path, to: str) -> None:
    bundle = random_bundle(tmp_path / "a")
    exported = export_bundle(bundle, tmp_path / "b", to)
    windows = drawn_windows(bundle)
    windows[1, 0, 2, 5:9, :] = 0  # one band of one date
    expected, found = Lane(bundle).run(windows), Lane(exported).run(windows)
    assert np.abs(expected - found).max() <= 2  # of 65535: the last bits of float32
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    assert exported.digest() != bundle.digest()
    assert exported.classes == bundle.classes
    assert _failed(check_bundle(exported)) == set()


def test_an_exported_onnx_takes_plain_reflectance_as_documented(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "a", temperature=1.0)
    exported = export_bundle(bundle, tmp_path / "b", "onnx")
    windows = drawn_windows(bundle)
    session = onnxruntime.InferenceSession(exported.weights_path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type) for i in session.get_inputs()] == [("reflectance", "tensor(float)")]
    (logits,) = session.run(None, {"reflectance": windows.reshape(3, 6, 32, 32).astype(np.float32)})
    p = torch.softmax(torch.tensor(logits), dim=1).numpy()
    np.testing.assert_allclose(p, Lane(bundle).run(windows) / 65535, rtol=0, atol=3e-5)


def test_safetensors_say_what_they_fill(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "a")
    file = export_bundle(bundle, tmp_path / "b", "safetensors")
    with safe_open(file, "pt") as opened:
        about = {k: json.loads(v) for k, v in opened.metadata().items()}
    assert (about["architecture"], about["config"]["n_bands"]) == ("unet", 3)
    assert about["normalisation"]["mean"] == [700.0, 900.0, 2500.0]
    own = read_state_dict(bundle.weights_path)
    assert all(torch.equal(v, own[k]) for k, v in read_state_dict(file).items())


def test_a_graph_is_not_exported_again(tmp_path: Path) -> None:
    exported = export_bundle(random_bundle(tmp_path / "a"), tmp_path / "b", "onnx")
    with pytest.raises(InputError, match="registry"):
        export_bundle(exported, tmp_path / "c", "onnx")


@pytest.fixture(scope="module")
def presto_bundle(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    spec = CubeSpec(bands=("B02", "B03", "B04", "B08"), period="1MS")
    weights = real_data / "weights" / "presto_default_model.pt"
    return presto(tmp_path_factory.mktemp("presto") / "b", weights, spec, n_dates=2)


def test_presto_becomes_a_bundle_of_features(presto_bundle: Bundle, real_data: Path) -> None:
    bundle = presto_bundle
    assert (bundle.pixelwise, bundle.takes_days, bundle.lattice) == (True, True, Lattice(1, 0))
    assert load_bundle(bundle.path) == bundle
    published = read_state_dict(real_data / "weights" / "presto_default_model.pt")
    own = read_state_dict(bundle.weights_path)
    assert set(own) == {k for k in published if k.startswith("encoder.")}
    assert all(torch.equal(v, published[k]) for k, v in own.items())
    gain, shift = own["encoder.norm.weight"].abs(), own["encoder.norm.bias"].abs()
    assert float((gain * 127**0.5 + shift).max()) < PRESTO_REACH  # so that no feature is ever clipped
    assert _failed(check_bundle(bundle)) == set()


def test_presto_exports_with_its_days(presto_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--first-month"):
        export_bundle(presto_bundle, tmp_path / "b", "onnx")
    days = drawn_days(presto_bundle)
    exported = export_bundle(presto_bundle, tmp_path / "b", "onnx", days)
    windows = drawn_windows(presto_bundle)
    expected = Lane(presto_bundle, days=days).run(windows)
    assert np.abs(Lane(exported).run(windows) - expected).max() <= 2


def test_presto_of_worldcereal_fits_too(real_data: Path, tmp_path: Path) -> None:
    spec = CubeSpec(bands=("B08",), period="1MS")
    bundle = presto(tmp_path / "b", real_data / "weights" / "presto_worldcereal_finetuned.pt", spec)
    assert bundle.n_dates is None
    assert bundle.config.n_positions == 72
    with pytest.raises(InputError, match="months"):
        presto(tmp_path / "c", bundle.weights_path, CubeSpec(bands=("B08",), period="10D"))
    with pytest.raises(InputError, match="not those of Presto"):
        presto(tmp_path / "c", real_data / "weights" / "galileo_nano_encoder.pt", spec)


def test_the_receptive_field_belies_a_bundle_that_calls_itself_free_of_size(tmp_path: Path) -> None:
    def looks(bundle: Bundle) -> Finding:
        return next(f for f in check_bundle(bundle, field=True) if f.name == "looks")

    first = helper.make_node("Gather", ["x", "four"], ["part"], axis=1)
    mean = helper.make_node("ReduceMean", ["part"], ["mean"], axes=[2, 3], keepdims=1)
    add = helper.make_node("Sub", ["part", "mean"], ["y"])
    four = onnx.numpy_helper.from_array(np.array([0, 1, 2, 3]), "four")
    graph = _graph([first, mean, add], [four])
    found = looks(
        create_onnx_bundle(tmp_path / "a", graph, Layout(order="NCHW"), replace(FIELDS, size_free=True))
    )
    assert found.passed is False
    assert "size_free" in found.told
    assert looks(create_onnx_bundle(tmp_path / "b", graph, Layout(order="NCHW"), FIELDS)).passed is None

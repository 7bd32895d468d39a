"""The bundle: round trip, digest, and what it refuses."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pystac
import pytest
import torch
from pystac.extensions.file import FileExtension
from pystac.extensions.mlm import MLMExtension

from engine.inference.bundle import create_onnx_bundle, load_bundle
from engine.inference.contradictions import refuse_contradictions
from engine.inference.foreign import dynamic_world
from engine.inference.manifest import Layout
from engine.models.normalise import LogSigmoid, Standard
from engine.values.classes import ClassScheme
from engine.values.errors import DataError, InputError, LandweaveError, TrustError
from engine.values.lattice import Lattice
from engine.values.masking import ModelMask
from engine.values.spec import CubeSpec
from tests.inference.bundles import FIELDS, network, random_bundle


def _edit(folder: Path, field: str, value: Any) -> None:
    path = folder / "manifest.json"
    item = json.loads(path.read_text())
    if value is None:
        del item["properties"][field]
    else:
        item["properties"][field] = value
    path.write_text(json.dumps(item))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = random_bundle(tmp_path / "b")
    loaded = load_bundle(tmp_path / "b")
    assert loaded == saved
    assert loaded.digest() == saved.digest()
    for name in ("spec", "n_dates", "classes", "lattice", "normalisation", "temperature", "name", "training"):
        assert getattr(loaded, name) == getattr(FIELDS, name), name
    assert (loaded.kind, loaded.architecture, loaded.layout.order) == ("safetensors", "unet", "BTCHW")
    assert hash(loaded) == hash(saved)
    assert pickle.loads(pickle.dumps(loaded)) == loaded


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    a, b = random_bundle(tmp_path / "a"), random_bundle(tmp_path / "b")
    assert a.weights_path.read_bytes() == b.weights_path.read_bytes()
    assert a.digest() == b.digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": CubeSpec(bands=("blue", "green", "red"), period="1MS", season="03-01/04-30")},
        {"spec": CubeSpec(bands=("blue", "green", "nir"), period="1MS", season="04-01/05-31")},
        {"lattice": Lattice(32, 16)},
        {"lattice": Lattice(32, 8, "radial")},
        {"normalisation": Standard(mean=(700.0, 900.0, 2500.0), std=(300.0, 350.0, 901.0))},
        {"normalisation": LogSigmoid(centre=(1.0, 1.0, 1.0), scale=(1.0, 1.0, 1.0))},
        {"temperature": 1.26},
    ],
    ids=lambda c: str(*c),
)
def test_whatever_changes_a_byte_of_the_map_changes_the_digest(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    a, b = random_bundle(tmp_path / "a"), random_bundle(tmp_path / "b", **changes)
    assert a.digest() != b.digest()
    assert a != b


def test_weights_class_values_and_layout_change_the_digest(tmp_path: Path) -> None:
    net = network()
    a = random_bundle(tmp_path / "a", net)
    with torch.no_grad():
        next(net.parameters()).add_(1e-6)
    assert random_bundle(tmp_path / "b", net).digest() != a.digest()
    values = [c.model_copy(update={"value": c.value + 1}) for c in FIELDS.classes.classes]
    assert random_bundle(tmp_path / "c", classes=ClassScheme(classes=tuple(values))).digest() != a.digest()


def test_words_and_colours_do_not_change_the_digest(tmp_path: Path) -> None:
    classes = ClassScheme(
        classes=tuple(c.model_copy(update={"colour": "#123456"}) for c in FIELDS.classes.classes)
    )
    a = random_bundle(tmp_path / "a")
    b = random_bundle(tmp_path / "b", name="another", licence="MIT", classes=classes, training={})
    assert a.digest() == b.digest()


def test_the_manifest_is_a_stac_item_that_pystac_reads(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "b")
    item = pystac.Item.from_file(str(tmp_path / "b" / "manifest.json"))
    mlm = MLMExtension.ext(item)
    assert mlm.mlm_name == "test model"
    assert mlm.architecture == "U-Net"
    assert mlm.framework == "PyTorch"
    assert mlm.tasks == ["semantic-segmentation"]
    assert mlm.total_parameters == sum(p.numel() for p in network().parameters())
    assert mlm.input[0].input.shape == [-1, 2, 3, 32, 32]
    assert mlm.input[0].input.dim_order == ["batch", "time", "channel", "height", "width"]
    # An array, as the extension's schema asks; pystac's own accessor takes it for one object.
    scaling = item.properties["mlm:input"][0]["value_scaling"]
    assert [s["mean"] for s in scaling] == [700.0, 900.0, 2500.0]
    assert mlm.output[0].result.shape == [-1, 4, 32, 32]
    assert [c.value for c in mlm.output[0].classes] == [1, 2, 3, 4]
    assert mlm.output[0].classes[1].name == "grass_land"
    assert FileExtension.ext(item.assets["model"]).checksum == "1220" + bundle.weights_sha256
    assert FileExtension.ext(item.assets["model"]).size == bundle.weights_path.stat().st_size
    assert "mlm:model" in item.assets["model"].roles
    assert item.properties["license"] == "Apache-2.0"


def test_the_manifest_satisfies_the_stac_1_1_item_schema(tmp_path: Path) -> None:
    random_bundle(tmp_path / "b")
    item = pystac.Item.from_file(str(tmp_path / "b" / "manifest.json"))
    item.stac_extensions = []  # their schemas lie on the network; the core's come with pystac
    item.validate()
    assert item.to_dict()["stac_version"] == "1.1.0"


class _Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model.bin", "model"])
def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path, name: str) -> None:
    witness = tmp_path / "it-ran"
    evil = pickle.dumps(_Evil(witness))
    pickle.loads(evil)
    assert witness.exists(), "the pickle does run when it is opened"
    witness.unlink()

    folder = tmp_path / "b"
    bundle = random_bundle(folder)
    bundle.weights_path.unlink()
    (folder / name).write_bytes(evil)
    manifest = folder / "manifest.json"
    item = json.loads(manifest.read_text())
    item["assets"]["model"]["href"] = f"./{name}"
    manifest.write_text(json.dumps(item))
    with pytest.raises(TrustError, match=r"may run code"):
        load_bundle(folder)
    with pytest.raises(TrustError, match=r"may run code"):
        load_bundle(folder / name)
    with pytest.raises(TrustError):
        create_onnx_bundle(tmp_path / "c", folder / name, Layout(order="NCHW"), FIELDS)
    assert not witness.exists()


def test_a_pickle_named_safetensors_does_not_run_either(tmp_path: Path) -> None:
    from engine.inference.lane import Lane

    witness = tmp_path / "it-ran"
    bundle = random_bundle(tmp_path / "b")
    evil = pickle.dumps(_Evil(witness))
    bundle.weights_path.write_bytes(evil)
    import hashlib

    _edit(tmp_path / "b", "landweave:weights_sha256", hashlib.sha256(evil).hexdigest())
    with pytest.raises(DataError, match="do not fit"):
        Lane(load_bundle(tmp_path / "b"))
    assert not witness.exists()


def test_a_folder_with_only_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"\x80")
    with pytest.raises(TrustError, match=r"model\.pth"):
        load_bundle(tmp_path)


def test_changed_weights_are_a_data_error(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "b")
    content = bytearray(bundle.weights_path.read_bytes())
    content[-1] ^= 1
    bundle.weights_path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=bundle.weights_sha256):
        load_bundle(tmp_path / "b")
    bundle.weights_path.unlink()
    with pytest.raises(DataError, match="cannot read the weights"):
        load_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("landweave:cube", None, "landweave:cube"),
        ("landweave:cube", {"bands": ["blue"], "periods": "1MS"}, "landweave:cube.periods"),
        ("landweave:temperature", 0, "landweave:temperature"),
        ("landweave:n_dates", 0, "landweave:n_dates"),
        ("landweave:n_dates", 3, "landweave:config"),
        ("landweave:format", 99, "landweave:format"),
        ("landweave:weights_sha256", "abc", "landweave:weights_sha256"),
        ("landweave:architecture", "resnet", "architecture"),
        ("landweave:architecture", None, "landweave:architecture"),
        ("landweave:lattice", {"window_px": 32, "overlap_px": 40, "kernel": "hann"}, "overlap"),
        ("landweave:lattice", {"window_px": 36, "overlap_px": 8, "kernel": "hann"}, "landweave:lattice"),
        ("landweave:layout", {"order": "NHWC"}, "landweave:layout"),
        ("landweave:normalisation", {"kind": "standard", "mean": [1], "std": [1]}, "landweave:normalisation"),
        ("landweave:normalisation", {"kind": "magic"}, "landweave:normalisation"),
        ("landweave:surprise", 1, "landweave:surprise"),
    ],
)
def test_a_wrong_manifest_names_its_field(tmp_path: Path, field: str, value: Any, named: str) -> None:
    random_bundle(tmp_path / "b")
    _edit(tmp_path / "b", field, value)
    with pytest.raises(InputError) as caught:
        load_bundle(tmp_path / "b")
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "href", ["../model.safetensors", "/etc/passwd", "https://x/model.onnx", "", None, ".."]
)
def test_weights_outside_the_folder_are_refused(tmp_path: Path, href: str | None) -> None:
    random_bundle(tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    item = json.loads(path.read_text())
    item["assets"]["model"]["href"] = href
    path.write_text(json.dumps(item))
    with pytest.raises(InputError, match=r"own folder"):
        load_bundle(tmp_path / "b")


def test_no_manifest_and_no_json_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="manifest"):
        load_bundle(tmp_path)
    for text in ("{", "[]", '{"properties": {}}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match="manifest"):
            load_bundle(tmp_path)


def test_a_network_that_does_not_fit_the_fields_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="network and cube differ"):
        random_bundle(tmp_path / "b", network(n_bands=4))
    assert not (tmp_path / "b").exists()


def test_a_manifest_from_before_heads_and_precision_reads_as_it_did(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path)
    manifest = tmp_path / "manifest.json"
    item = json.loads(manifest.read_text())
    own = item["properties"]
    for name in ("head", "precision", "size_free"):
        del own[f"landweave:{name}"]
    del own["landweave:lattice"]["border"], own["landweave:layout"]["stride"]
    manifest.write_text(json.dumps(item))
    before = load_bundle(tmp_path)
    assert before == bundle
    assert before.digest() == bundle.digest()
    assert not before.size_free, "nobody said so"


def test_a_graph_is_not_told_its_precision(real_data: Path, tmp_path: Path) -> None:
    weights = real_data / "weights"
    world = dynamic_world(
        tmp_path / "world", weights / "dynamicworld_forward.onnx", weights / "dynamicworld_normalisation.json"
    )
    with pytest.raises(InputError, match="computes in what it was written in"):
        refuse_contradictions(replace(world, precision="bfloat16"))


def test_dynamic_world_becomes_a_bundle(real_data: Path, tmp_path: Path) -> None:
    weights = real_data / "weights"
    bundle = dynamic_world(
        tmp_path / "dw", weights / "dynamicworld_forward.onnx", weights / "dynamicworld_normalisation.json"
    )
    assert bundle.spec.bands == (
        "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "swir16", "swir22",
    )  # fmt: skip
    assert bundle.classes.values == tuple(range(1, 10))
    assert (bundle.kind, bundle.layout.order, bundle.n_dates) == ("onnx", "NHWC", 1)
    item = pystac.Item.from_file(str(tmp_path / "dw" / "manifest.json"))
    assert MLMExtension.ext(item).input[0].input.shape == [-1, 256, 256, 9]
    assert MLMExtension.ext(item).output[0].result.dim_order == ["batch", "height", "width", "class"]
    moved = shutil.copytree(tmp_path / "dw", tmp_path / "moved")
    assert load_bundle(moved) == bundle


def test_errors_are_of_the_one_tree(tmp_path: Path) -> None:
    with pytest.raises(LandweaveError):
        create_onnx_bundle(tmp_path, tmp_path / "gone.onnx", Layout(order="NCHW"), FIELDS)


def _mask_by_function(folder: Path, witness: Path, monkeypatch: pytest.MonkeyPatch) -> CubeSpec:
    """A module that leaves a file behind as soon as it is imported, and a spec that masks with it."""
    (folder / "planted_mask.py").write_text(
        f"open({str(witness)!r}, 'w').close()\n\n\ndef hide(values):\n    open({str(witness)!r}, 'w').close()\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    mask = ModelMask(model="planted_mask:hide", bands=("red",))
    return FIELDS.spec.model_copy(update={"mask": (mask,)})


def test_a_function_in_a_bundles_mask_is_refused_and_neither_imported_nor_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "it ran"
    spec = _mask_by_function(tmp_path, witness, monkeypatch)
    saved = random_bundle(tmp_path / "b", spec=spec)
    with pytest.raises(TrustError, match=r"planted_mask:hide.*trust_model=True"):
        load_bundle(tmp_path / "b")
    assert load_bundle(tmp_path / "b", trust_model=True) == saved
    assert not witness.exists()
    assert "planted_mask" not in sys.modules
    __import__("planted_mask")  # the plant works
    assert witness.exists()
    sys.modules.pop("planted_mask")


@pytest.mark.parametrize("mask", ["scl", "cloud_probability", "s2cloudless", "omnicloudmask"])
def test_masks_without_code_of_the_bundle_need_no_trust(tmp_path: Path, mask: str) -> None:
    spec = CubeSpec(bands=FIELDS.spec.bands, season=FIELDS.spec.season, mask=mask)
    random_bundle(tmp_path / "b", spec=spec)
    assert load_bundle(tmp_path / "b").spec == spec

"""Files that run code when they are opened: refused, and proved not to have run."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.inference.bundle import create_onnx_bundle, create_pt2_bundle, load_bundle
from engine.inference.export import export_bundle
from engine.inference.foreign import presto
from engine.inference.lane import Lane
from engine.inference.manifest import Layout
from engine.inference.state import read_state_dict
from engine.values.errors import DataError, InputError, LandweaveError, TrustError
from engine.values.spec import CubeSpec
from pipelines.make_bundle import make_bundle
from tests.inference.bundles import FIELDS, random_bundle


class _Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def bare(witness: Path) -> bytes:
    """A pickle, as joblib and old checkpoints are."""
    return pickle.dumps(_Evil(witness))


def zipped(witness: Path) -> bytes:
    """What torch.save writes: a zip with a pickle in it."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "more": _Evil(witness)}, buffer)
    return buffer.getvalue()


def graph(witness: Path) -> bytes:
    """Laid out as torch.export.save does, with a pickle where its sample inputs are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("model/data/sample_inputs/model.pt", zipped(witness))
        file.writestr("model/archive_format", "pt2")
    return buffer.getvalue()


def test_the_files_here_do_run_code_when_they_are_opened(witness: Path) -> None:
    pickle.loads(bare(witness))
    assert witness.exists()
    witness.unlink()
    torch.load(io.BytesIO(zipped(witness)), weights_only=False)
    assert witness.exists()


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("model.pt", zipped, TrustError),
        ("model.pth", bare, TrustError),
        ("model.pkl", bare, TrustError),
        ("model.joblib", bare, TrustError),
        ("model.ckpt", zipped, TrustError),
        ("model.pt2", graph, TrustError),
        ("model.PT2", graph, TrustError),
        ("model.safetensors", zipped, DataError),
        ("model.safetensors", bare, DataError),
        ("model.onnx", zipped, DataError),
    ],
)
def test_as_weights_of_a_bundle(
    tmp_path: Path, witness: Path, name: str, make: Callable[[Path], bytes], kind: type[LandweaveError]
) -> None:
    folder = tmp_path / "b"
    random_bundle(folder).weights_path.unlink()
    evil = make(witness)
    (folder / name).write_bytes(evil)
    path = folder / "manifest.json"
    item = json.loads(path.read_text())
    item["assets"]["model"]["href"] = f"./{name}"
    own = item["properties"]
    own["landweave:weights_sha256"] = hashlib.sha256(evil).hexdigest()
    if name.endswith("onnx"):
        own["landweave:layout"]["order"] = "NCHW"
        for field in ("architecture", "config"):
            del own[f"landweave:{field}"]
    path.write_text(json.dumps(item))
    with pytest.raises(kind):
        Lane(load_bundle(folder))
    with pytest.raises(InputError):
        load_bundle(folder / name)
    assert not witness.exists()


@pytest.mark.parametrize("make", [bare, zipped])
@pytest.mark.parametrize("name", ["state.pt", "state.pth", "state.ckpt"])
def test_as_a_state_dict(tmp_path: Path, witness: Path, name: str, make: Callable[[Path], bytes]) -> None:
    (tmp_path / name).write_bytes(make(witness))
    with pytest.raises(TrustError, match="not opened"):
        read_state_dict(tmp_path / name)
    with pytest.raises(TrustError):
        presto(tmp_path / "b", tmp_path / name, CubeSpec(bands=("nir",), period="1MS"))
    assert not witness.exists()


def test_as_a_safetensors_state_dict(tmp_path: Path, witness: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(zipped(witness))
    with pytest.raises(DataError, match="not a safetensors file"):
        read_state_dict(tmp_path / "state.safetensors")
    assert not witness.exists()


def test_an_old_torch_is_not_trusted_with_a_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "state.pt")
    assert read_state_dict(tmp_path / "state.pt")["a"].tolist() == [1, 1]
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(InputError, match=r"2\.6"):
        read_state_dict(tmp_path / "state.pt")


def test_a_checkpoint_is_unwrapped_and_other_content_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "checkpoint.pt")
    assert set(read_state_dict(tmp_path / "checkpoint.pt")) == {"a"}
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(InputError, match="no state dict"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(InputError, match="cannot read"):
        read_state_dict(tmp_path / "gone.pt")


def test_a_graph_of_torch_needs_trust_at_every_door(tmp_path: Path, witness: Path) -> None:
    evil = tmp_path / "evil.pt2"
    evil.write_bytes(graph(witness))
    layout = Layout(order="NCHW")
    for attempt in (
        lambda: create_pt2_bundle(tmp_path / "c", evil, layout, FIELDS),
        lambda: create_onnx_bundle(tmp_path / "c", evil, layout, FIELDS),
        lambda: load_bundle(evil),
    ):
        with pytest.raises(TrustError, match="trust"):
            attempt()
    assert not (tmp_path / "c").exists()
    trusted = create_pt2_bundle(tmp_path / "d", evil, layout, FIELDS, trust_model=True)
    assert not witness.exists(), "a bundle is written and read without opening its graph"
    with pytest.raises(TrustError):
        load_bundle(tmp_path / "d")
    with pytest.raises(DataError, match="cannot open the graph"):
        Lane(trusted)  # trusted, and opened; but there is no network in it


def test_a_yaml_cannot_give_trust(tmp_path: Path, witness: Path) -> None:
    (tmp_path / "evil.pt2").write_bytes(graph(witness))
    (tmp_path / "classes.yaml").write_text(FIELDS.classes.to_yaml())
    text = (
        "name: evil\npt2: evil.pt2\nbundle: b\nn_dates: 2\nclasses: classes.yaml\nlayout: {order: NCHW}\n"
        "cube: {bands: [blue, green, nir]}\nnormalisation: {kind: standard, mean: [0, 0, 0], std: [1, 1, 1]}\n"
    )
    (tmp_path / "bundle.yaml").write_text(text)
    with pytest.raises(TrustError, match="--trust-model"):
        make_bundle(tmp_path / "bundle.yaml")
    (tmp_path / "sly.yaml").write_text(text + "trust_model: true\n")
    with pytest.raises(TrustError, match="not given in a file"):
        make_bundle(tmp_path / "sly.yaml")
    assert make_bundle(tmp_path / "bundle.yaml", trust_model=True).kind == "pt2"
    assert not witness.exists()


def test_a_trusted_graph_runs_and_tells_its_torch(tmp_path: Path) -> None:
    source = random_bundle(tmp_path / "a")
    exported = export_bundle(source, tmp_path / "b", "pt2")
    with pytest.raises(TrustError):
        load_bundle(tmp_path / "b")
    assert load_bundle(tmp_path / "b", trust_model=True) == exported
    item = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert item["properties"]["mlm:framework_version"] == str(torch.__version__)

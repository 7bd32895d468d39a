"""The lane: the same window gives the same bits, whatever its slot, neighbours or thread."""

from __future__ import annotations

import pickle
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray

from engine.inference.allocator import keep_freed_memory
from engine.inference.bundle import Bundle
from engine.inference.foreign import dynamic_world
from engine.inference.lane import Lane, fixed_point, lane_for
from engine.inference.manifest import Precision
from engine.models.normalise import prepare
from engine.values.errors import DataError, InputError, SpecError
from engine.values.lattice import Lattice
from tests.inference.bundles import FIELDS, network, random_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Bundle:
    weights = real_data / "weights"
    return dynamic_world(
        tmp_path_factory.mktemp("world"),
        weights / "dynamicworld_forward.onnx",
        weights / "dynamicworld_normalisation.json",
        Lattice(64, 16),
    )


def _windows(n: int, bundle: Bundle, seed: int = 0) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    side = bundle.lattice.window_px
    shape = (n, bundle.n_dates, len(bundle.spec.bands), side, side)
    x_BTCHW = rng.integers(1, 6000, shape).astype(np.uint16)
    x_BTCHW[rng.random(shape) < 0.02] = 0
    return x_BTCHW


def _both(request: pytest.FixtureRequest) -> list[Bundle]:
    return [request.getfixturevalue("bundle"), request.getfixturevalue("world")]


def test_probabilities_match_plain_torch_in_float64(bundle: Bundle) -> None:
    x_BTCHW = _windows(3, bundle)
    values, valid = prepare(torch.tensor(x_BTCHW), bundle.normalisation)
    with torch.no_grad():
        logits = network().double()(values.double(), valid.double()) / bundle.temperature
    expected = torch.softmax(logits, dim=1).numpy() * 65535
    found = Lane(bundle).run(x_BTCHW)
    assert found.dtype == np.int32
    assert found.shape == (3, 4, 32, 32)
    np.testing.assert_allclose(found, expected, atol=0.6)
    np.testing.assert_allclose(found.sum(axis=1), 65535, atol=2)
    assert len(np.unique(found.argmax(axis=1))) > 1


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_slot_and_neighbours_do_not_move_a_bit(request: pytest.FixtureRequest, batch: int) -> None:
    for bundle in _both(request):
        lane = Lane(bundle, batch=batch)
        x_BTCHW = _windows(1, bundle)
        first = lane.run(x_BTCHW)[0]
        for slot in range(batch):
            for seed in (5, 6):
                mates = _windows(batch, bundle, seed)
                mates[slot] = x_BTCHW[0]
                np.testing.assert_array_equal(lane.run(mates)[slot], first)


def test_a_short_batch_gives_what_a_full_one_gives(request: pytest.FixtureRequest) -> None:
    for bundle in _both(request):
        lane = Lane(bundle, batch=2)
        x_BTCHW = _windows(5, bundle)
        whole = lane.run(x_BTCHW)
        parts = np.concatenate([lane.run(x_BTCHW[:1]), lane.run(x_BTCHW[1:4]), lane.run(x_BTCHW[4:])])
        np.testing.assert_array_equal(whole, parts)


def test_threads_that_share_a_lane_get_the_same_bits(request: pytest.FixtureRequest) -> None:
    for bundle in _both(request):
        lane = lane_for(bundle)
        x_BTCHW = _windows(4, bundle)
        alone = lane.run(x_BTCHW)

        def call(_: int, lane: Lane = lane, x: NDArray[np.uint16] = x_BTCHW) -> tuple[NDArray[np.int32], int]:
            return lane.run(x), torch.get_num_threads()

        with ThreadPoolExecutor(4) as pool:
            for found, threads in pool.map(call, range(8)):
                np.testing.assert_array_equal(found, alone)
                assert threads == 1


def test_a_thread_that_was_set_to_two_is_held_to_one(bundle: Bundle) -> None:
    lane = Lane(bundle)
    alone = lane.run(_windows(1, bundle))
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(lane.run(_windows(1, bundle)), alone)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


def test_memory_order_and_read_only_arrays_do_not_matter(bundle: Bundle) -> None:
    lane = Lane(bundle)
    x_BTCHW = _windows(2, bundle)
    strided = np.zeros((2, 2, 3, 33, 35), np.uint16)[..., 1:, 3:]
    strided[...] = x_BTCHW
    strided.setflags(write=False)
    np.testing.assert_array_equal(lane.run(strided), lane.run(x_BTCHW))


def test_every_window_is_counted_once_and_padding_never(bundle: Bundle) -> None:
    lane = Lane(bundle, batch=4)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: lane.run(_windows(n, bundle)), [1, 3, 5, 4]))
    assert lane.evaluations == 13
    assert lane.run(_windows(0, bundle)).shape == (0, 4, 32, 32)
    assert lane.evaluations == 13


def test_a_process_has_one_lane_of_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    found: list[Lane] = []
    threads = [threading.Thread(target=lambda: found.append(lane_for(bundle))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(lane) for lane in found}) == 1
    assert pickle.loads(pickle.dumps(found[0])) is found[0]
    same = random_bundle(tmp_path / "copy", name="copy")
    assert lane_for(same) is found[0]
    assert lane_for(random_bundle(tmp_path / "other", temperature=2.0)) is not found[0]


@pytest.mark.parametrize(
    "x_BTCHW",
    [
        np.zeros((1, 2, 3, 32, 32), np.int16),
        np.zeros((1, 1, 3, 32, 32), np.uint16),
        np.zeros((1, 2, 4, 32, 32), np.uint16),
        np.zeros((1, 2, 3, 32, 40), np.uint16),
        np.zeros((2, 3, 32, 32), np.uint16),
    ],
    ids=["dtype", "dates", "bands", "window", "axes"],
)
def test_other_windows_are_refused(bundle: Bundle, x_BTCHW: NDArray[np.uint16]) -> None:
    with pytest.raises(SpecError, match=r"uint16 \(2, 3, 32, 32\)"):
        Lane(bundle).run(x_BTCHW)


def test_weights_of_another_network_are_a_data_error(tmp_path: Path) -> None:
    bundle = random_bundle(tmp_path / "b")
    assert bundle.config is not None
    with pytest.raises(DataError, match="do not fit"):
        Lane(replace(bundle, config=bundle.config.model_copy(update={"width": 16})))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        net.head.bias[0] = float("nan")  # type: ignore[union-attr,index]
    bundle = random_bundle(tmp_path / "b", net)
    with pytest.raises(DataError, match="not finite"):
        Lane(bundle).run(_windows(1, bundle))


def test_a_device_that_is_not_there_is_an_input_error(bundle: Bundle, world: Bundle) -> None:
    with pytest.raises(InputError, match="device"):
        Lane(bundle, "tpu")
    with pytest.raises(InputError, match="device"):
        Lane(world, "tpu")


def test_fixed_point_rounds_and_divides_by_the_temperature() -> None:
    logits_KHW = torch.tensor([1.0, 3.0, -2.0])[:, None, None]
    expected = np.exp([0.5, 1.5, -1.0]) / np.exp([0.5, 1.5, -1.0]).sum() * 65535
    np.testing.assert_array_equal(fixed_point(logits_KHW, 2.0)[:, 0, 0].numpy(), np.rint(expected))
    p_KHW = torch.tensor([0.2, 0.7, 0.1])[:, None, None]
    as_they_are = fixed_point(p_KHW, 1.0, "probabilities")[:, 0, 0]
    np.testing.assert_array_equal(as_they_are.numpy(), np.rint(np.array([0.2, 0.7, 0.1]) * 65535))
    cooled = np.sqrt([0.2, 0.7, 0.1]) / np.sqrt([0.2, 0.7, 0.1]).sum() * 65535
    np.testing.assert_allclose(fixed_point(p_KHW, 2.0, "probabilities")[:, 0, 0].numpy(), cooled, atol=1)


def test_dynamic_world_sees_the_lakes_and_forests_of_a_winter_day(real_data: Path, world: Bundle) -> None:
    """Frozen lakes and haze: water polygons come out as snow and ice or water, forests as trees."""
    import geopandas as gpd
    from rasterio.features import rasterize

    folder = real_data / "s2_l1c_33UUU"
    with rasterio.open(folder / "T33UUU_20170216T102101_B02.jp2") as src:
        crs, transform, shape = src.crs, src.transform, src.shape
    bands = ["02", "03", "04", "05", "06", "07", "08", "11", "12"]
    cube = np.stack([_band(folder, msi) for msi in bands])[None]
    polygons = gpd.read_file(folder / "s2l1c_ref.gpkg").to_crs(crs)
    truth = rasterize(zip(polygons.geometry, polygons["cid"], strict=True), shape, transform=transform)
    ys, xs = np.nonzero(truth)
    cells = sorted({(int(y) // 64, int(x) // 64) for y, x in zip(ys, xs, strict=True)})[:24]
    windows = [(slice(64 * r, 64 * r + 64), slice(64 * c, 64 * c + 64)) for r, c in cells]
    probabilities = lane_for(world).run(np.stack([cube[..., y, x] for y, x in windows]))
    labels = probabilities.argmax(axis=1)
    there = np.stack([truth[y, x] for y, x in windows])
    names = np.array(world.classes.names)
    forest, lake = names[labels[there == 2]], names[labels[there == 1]]
    assert np.mean(forest == "trees") > 0.7
    assert np.mean(np.isin(lake, ["water", "snow_and_ice"])) > 0.7


def _band(folder: Path, msi: str) -> NDArray[np.uint16]:
    with rasterio.open(folder / f"T33UUU_20170216T102101_B{msi}.jp2") as src:
        values: NDArray[np.uint16] = src.read(1)
    repeat = 768 // values.shape[0]
    return values.repeat(repeat, axis=0).repeat(repeat, axis=1)


def test_dates_are_merged_date_by_date_for_a_foreign_network(tmp_path: Path) -> None:
    """An ONNX graph that hands back its channels shows their order."""
    onnx = pytest.importorskip("onnx")
    from engine.inference.bundle import create_onnx_bundle
    from engine.inference.manifest import Layout
    from engine.models.normalise import Standard
    from engine.values.classes import ClassScheme

    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["p"])],
        "echo",
        [tensor("x", onnx.TensorProto.FLOAT, ["n", 6, "h", "w"])],
        [tensor("p", onnx.TensorProto.FLOAT, ["n", 6, "h", "w"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(model, tmp_path / "echo.onnx")
    fields = replace(
        FIELDS,
        classes=ClassScheme.from_names("abcdef"),
        normalisation=Standard(mean=(0.0,) * 3, std=(65535.0,) * 3),
        temperature=1.0,
    )
    layout = Layout(order="NCHW", output="probabilities", input_name="x", output_name="p")
    bundle = create_onnx_bundle(tmp_path / "b", tmp_path / "echo.onnx", layout, fields)
    x_BTCHW = np.arange(1, 7, dtype=np.uint16).reshape(1, 2, 3, 1, 1) * np.ones((32, 32), np.uint16)
    assert Lane(bundle).run(x_BTCHW)[0, :, 5, 7].tolist() == [1, 2, 3, 4, 5, 6]

    wrong = create_onnx_bundle(
        tmp_path / "c", tmp_path / "echo.onnx", layout.model_copy(update={"output_name": "q"}), fields
    )
    with pytest.raises(InputError, match="output_name"):
        Lane(wrong)
    wrong = create_onnx_bundle(
        tmp_path / "d", tmp_path / "echo.onnx", layout.model_copy(update={"class_axis": 3}), fields
    )
    with pytest.raises(InputError, match="class_axis"):
        Lane(wrong).run(x_BTCHW)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near_the_full_one_and_repeats_to_the_bit(
    tmp_path: Path, precision: Precision
) -> None:
    full = random_bundle(tmp_path / "full")
    half = replace(full, precision=precision)
    x_BTCHW = _windows(3, full)
    exact, found = Lane(full).run(x_BTCHW), Lane(half, batch=2).run(x_BTCHW)
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=0.02 * 65535)
    np.testing.assert_allclose(found.sum(axis=1), 65535, atol=2)  # the softmax is in float32
    np.testing.assert_array_equal(Lane(half, batch=2).run(x_BTCHW[1:2])[0], found[1])
    assert lane_for(half) is not lane_for(full)


def test_freed_memory_is_kept_for_the_next_forward_pass(bundle: Bundle) -> None:
    """Page faults tell: memory that is lent anew must be cleared page by page."""
    resource = pytest.importorskip("resource")
    if not keep_freed_memory():
        assert platform.libc_ver()[0] != "glibc"
        return
    big = 48 * 2**20
    np.ones(big, np.uint8)  # lent once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(big, np.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < big // 4096  # with the library's defaults five times as many

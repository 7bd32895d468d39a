"""The device lane: windows in, fixed-point probabilities out, the same bits whoever asks and when.

What moves the last bits of a network, and what is done about it here:

- the number of threads: torch and ONNX Runtime run with one, in every thread that calls;
- the batch: shape is fixed, short batches are padded with zeros and cut;
- the slot and the neighbours in a batch: everything beside the convolutions runs window by window.

Speed comes from running one lane's calls in parallel, one per worker thread; nothing here is locked on
a CPU.

Shape suffixes: B batch, T date, C band, H row, W column, K class, F feature.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.inference.allocator import keep_freed_memory
from engine.inference.batching import Batches
from engine.inference.blend import ROWS
from engine.inference.bundle import Bundle
from engine.inference.cuda import PLACES, Places
from engine.inference.exported import exported_network
from engine.inference.heads import Given, fill_fixed_point, fixed_point, scaled
from engine.inference.loops import normalise
from engine.models.normalise import LogSigmoid, Standard, prepare
from engine.values.errors import DataError, InputError, SpecError
from engine.values.head import Classes, MultiLabel, Values

if TYPE_CHECKING:
    import torch

_CPU_BATCH = 1  # measured: larger batches leave the cache and are slower with one thread
_CPU_PLACES = 256  # as many as there may be threads
_GPU_BATCH = 16

Days = tuple[int, ...]
"""Day of the year (1..366) of each date of the cube; empty where the network does not ask."""

_lanes: dict[tuple[str, str, Days], Lane] = {}
_lanes_lock = threading.Lock()
_thread = threading.local()


def lane_for(bundle: Bundle, device: str = "cpu", days: Days = ()) -> Lane:
    """Return this process's lane of a bundle; built once, whichever thread asks first.

    Args:
        bundle: The model.
        device: ``cpu``, ``cuda`` or ``cuda:n``.
        days: Running day of each date, for networks that take it.

    Raises:
        DataError: If the weights are damaged or do not fit the architecture.
        InputError: If the device is not there.
    """
    key = (bundle.digest(), device, days)
    with _lanes_lock:
        if key not in _lanes:
            _lanes[key] = Lane(bundle, device, days=days)
        return _lanes[key]


class Lane:
    """One model on one device.

    Use `lane_for` to share it within a process; a pickled lane becomes the shared one where it arrives.

    Args:
        bundle: The model.
        device: ``cpu``, ``cuda`` or ``cuda:n``.
        batch: Windows per evaluation; by default 1 on a CPU and for ONNX, 16 on a GPU. Two lanes with
            different batches may differ in the last bits of a probability.
        days: Running day of each date, for networks that take it.
    """

    def __init__(
        self, bundle: Bundle, device: str = "cpu", batch: int | None = None, days: Days = ()
    ) -> None:
        keep_freed_memory()
        _one_thread()
        self.bundle, self.device, self.days = bundle, device, days
        self.network = network_of(bundle, device, days, packed=device == "cpu")
        self._table_CV = _normal_table(bundle.normalisation)
        self._places = None if device == "cpu" or bundle.kind == "onnx" else Places(device)
        large = device != "cpu" and bundle.kind == "safetensors" and not bundle.pixelwise
        default = _GPU_BATCH if large else _CPU_BATCH
        self._batches = self._queue(default if batch is None else batch)
        self._count = 0
        self._count_lock = threading.Lock()

    def _queue(self, batch: int) -> Batches:
        """Make the queue; on a CPU a batch is never halved, as its size decides the last bits there."""
        import torch

        if self._places is None:
            return Batches(self._filled, batch, _CPU_PLACES)
        return Batches(self._filled, batch, PLACES, torch.OutOfMemoryError)

    @property
    def batch(self) -> int:
        """Windows per evaluation."""
        return self._batches.size

    def __reduce__(self) -> tuple[Any, ...]:
        return lane_for, (self.bundle, self.device, self.days)

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return len(self.bundle.classes.classes)

    @property
    def evaluations(self) -> int:
        """Windows evaluated since the lane was built, padding not counted."""
        return self._count

    def run(self, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        """Evaluate windows.

        Args:
            x_BTCHW: uint16, any number of windows of the lattice's size, 0 = no data; for a pixel-wise
                network rows of `ROWS` pixels, (B, T, C, ROWS, 1).

        Returns:
            (B, K, H, W) int32 fixed point, 0..65535; H and W divided by the output's stride.

        Raises:
            SpecError: If dtype, dates, bands or window are not the bundle's.
            DataError: If the network gives values that are not finite.
            BudgetError: If not even one window fits the device's memory.
        """
        self._check(x_BTCHW)
        _one_thread()
        height, width = (side // self.bundle.layout.stride for side in x_BTCHW.shape[3:])
        out_BKHW = np.empty((len(x_BTCHW), self.n_classes, height, width), np.int32)
        if self.batch == 1 and self.device == "cpu":
            for x_TCHW, out_KHW in zip(x_BTCHW, out_BKHW, strict=True):
                self._evaluate(np.require(x_TCHW[None], requirements=("C", "W")), out_KHW[None])
        else:
            for out_KHW, found_KHW in zip(out_BKHW, self._batches.run(x_BTCHW), strict=True):
                np.copyto(out_KHW, found_KHW)
        with self._count_lock:
            self._count += len(x_BTCHW)
        return out_BKHW

    def _filled(self, place: int, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        """Fill a batch up with zeros and evaluate it."""
        _one_thread()
        missing = self.batch - len(x_BTCHW)
        if missing > 0:
            padding = np.zeros((missing, *x_BTCHW.shape[1:]), np.uint16)
            x_BTCHW = np.concatenate([x_BTCHW, padding])
        if self._places is not None:
            return self._places.run(place, x_BTCHW, self._fixed_on_device)
        sides = (side // self.bundle.layout.stride for side in x_BTCHW.shape[3:])
        out_BKHW = np.empty((len(x_BTCHW), self.n_classes, *sides), np.int32)
        self._evaluate(x_BTCHW, out_BKHW)
        return out_BKHW

    def _evaluate(self, x_BTCHW: NDArray[np.uint16], out_BKHW: NDArray[np.int32]) -> None:
        """Evaluate one batch on the CPU; window by window beside the network."""
        import torch

        with torch.inference_mode():
            outputs_BKHW = self.outputs(*self.prepared(x_BTCHW))
            for outputs_KHW, out_KHW in zip(outputs_BKHW, out_BKHW, strict=True):
                fill_fixed_point(outputs_KHW, out_KHW, *self._meaning)

    def _fixed_on_device(self, x_BTCHW: torch.Tensor) -> torch.Tensor:
        """As `_evaluate`, for tensors on another device."""
        import torch

        with torch.inference_mode():
            outputs_BKHW = self.outputs(*prepare(x_BTCHW, self.bundle.normalisation))
            return torch.stack([fixed_point(outputs_KHW, *self._meaning) for outputs_KHW in outputs_BKHW])

    @property
    def _meaning(self) -> tuple[float, Given, Classes | MultiLabel | Values]:
        return self.bundle.temperature, self.bundle.layout.output, self.bundle.head

    def outputs(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        """Run the network alone, in the bundle's precision: ``outputs_BKHW``."""
        import torch

        if self.bundle.precision == "float32":
            outputs_BKHW = self.network(x_BTCHW, valid_BTHW)
        else:
            kind, dtype = self.device.partition(":")[0], getattr(torch, self.bundle.precision)
            with torch.autocast(kind, dtype=dtype):
                outputs_BKHW = self.network(x_BTCHW, valid_BTHW)
        return outputs_BKHW if self.bundle.vector is None else scaled(outputs_BKHW, self.bundle.vector)

    def features(self, x_BTCHW: NDArray[np.uint16]) -> torch.Tensor:
        """Return the network's last hidden features of windows, ``features_BFHW`` float32 on the device.

        Raises:
            InputError: If the network has none to show (`engine.inference.unfamiliar`).
        """
        import torch

        _one_thread()
        if not isinstance(self.network, RegisteredNetwork):
            raise InputError("a graph shows no features", where="lane", found=self.bundle.kind)
        with torch.inference_mode():
            if self.device == "cpu":
                return self.network.features(*self.prepared(np.require(x_BTCHW, requirements=("C", "W"))))
            x_on_device = torch.from_numpy(np.ascontiguousarray(x_BTCHW)).to(self.device)
            return self.network.features(*prepare(x_on_device, self.bundle.normalisation))

    def prepared(self, x_BTCHW: NDArray[np.uint16]) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalise on the CPU, features of a pixel side by side: ``x_BTCHW`` and ``valid_BTHW``, float32."""
        import torch

        if getattr(self.bundle.normalisation, "groups", None) is not None:
            values, valid = prepare(
                torch.from_numpy(np.ascontiguousarray(x_BTCHW)), self.bundle.normalisation
            )
            by_pixel = values.flatten(1, 2).contiguous(memory_format=torch.channels_last)
            return by_pixel.unflatten(1, x_BTCHW.shape[1:3]), valid
        batch, dates, bands, height, width = x_BTCHW.shape
        x_BHWF = torch.empty((batch, height, width, dates * bands))
        valid_BHWT = torch.empty((batch, height, width, dates))
        # A column of pixels as one row, along which the loop is fast.
        row = (1, height) if width == 1 else (height, width)
        x_BTCR, x_BRF = x_BTCHW.reshape(batch, dates, bands, *row), x_BHWF.view(batch, *row, -1).numpy()
        valid_BRT = valid_BHWT.view(batch, *row, dates).numpy()
        for x_TCR, x_RF, valid_RT in zip(x_BTCR, x_BRF, valid_BRT, strict=True):
            normalise(x_TCR, self._table_CV, x_RF, valid_RT)
        return x_BHWF.permute(0, 3, 1, 2).unflatten(1, (dates, bands)), valid_BHWT.permute(0, 3, 1, 2)

    def _check(self, x_BTCHW: NDArray[np.uint16]) -> None:
        bundle, window = self.bundle, self.bundle.lattice.window_px
        sides = (ROWS, 1) if bundle.pixelwise else (window, window)
        dates = bundle.n_dates or (x_BTCHW.shape[1] if x_BTCHW.ndim == 5 else 1)
        limit = (dates, len(bundle.planes), *sides)
        if x_BTCHW.dtype != np.uint16 or x_BTCHW.ndim != 5 or x_BTCHW.shape[1:] != limit:
            raise SpecError(
                "the windows are not what the bundle was trained on",
                where="lane (date, band, y, x)",
                found=f"{x_BTCHW.dtype} {x_BTCHW.shape[1:]}",
                limit=f"uint16 {limit}",
                mend="open the cube with the bundle's own spec (bundle.spec)",
            )


def _normal_table(normalisation: Standard | LogSigmoid) -> NDArray[np.float32]:
    """Normalise every value that a cube can hold, (C, 65536) float32: what `prepare` says, looked up."""
    import torch

    values_V = np.arange(65536, dtype=np.uint16).reshape(1, 1, 1, 256, 256)
    x_BTCHW, _ = prepare(torch.tensor(values_V).expand(1, 1, normalisation.n_bands, 256, 256), normalisation)
    return x_BTCHW[0, 0].reshape(normalisation.n_bands, 65536).numpy()


Network = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""``(x_BTCHW, valid_BTHW) -> outputs_BKHW``, all float32."""


@dataclass(frozen=True, eq=False)
class RegisteredNetwork:
    """A network of the registry as a function: the module, and the days where it asks for them."""

    module: torch.nn.Module
    more: tuple[torch.Tensor, ...]

    def __call__(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        """Return ``outputs_BKHW``."""
        found: torch.Tensor = self.module(x_BTCHW, valid_BTHW, *self.more)
        return found

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        """Return the last hidden features, ``features_BFHW`` float32.

        Raises:
            InputError: If the network has none to show.
        """
        show = getattr(self.module, "features", None)
        if show is None:
            raise InputError("the network shows no features", where="lane", found=type(self.module).__name__)
        found: torch.Tensor = show(x_BTCHW, valid_BTHW, *self.more).float()
        return found


def network_of(bundle: Bundle, device: str, days: Days = (), *, packed: bool = False) -> Network:
    """Open a bundle's network.

    Args:
        bundle: The model.
        device: ``cpu``, ``cuda`` or ``cuda:n``.
        days: Running day of each date, for networks that take it.
        packed: Whether as the lane of a CPU runs it, without derivatives (`engine.models.packed`); float32
            networks of the registry only, others stay as they are.

    Raises:
        DataError: If the weights are damaged or do not fit the architecture.
        InputError: If the device is not there, or the days are missing.
    """
    if bundle.kind == "onnx":
        return _onnx_network(bundle, device)
    return _network(bundle, device, days, packed=packed and bundle.precision == "float32")


def _network(bundle: Bundle, device: str, days: Days, *, packed: bool) -> Network:
    """Build a registry network: batch norms folded, channels last (measured: 1.5 times as fast)."""
    import torch
    from safetensors.torch import load

    from engine.models.fold import fold_batchnorm
    from engine.models.order import channels_last
    from engine.models.packed import pack
    from engine.models.registry import build

    _check_device(torch, device)
    if device != "cpu":
        _exact_gpu(torch)
    if bundle.kind == "pt2":
        return exported_network(bundle, device, _fed)
    module = build(str(bundle.architecture), bundle.config.model_dump() if bundle.config else {})
    try:
        module.load_state_dict(load(bundle.read_weights()))
    except Exception as error:  # safetensors and torch raise their own kinds
        raise DataError(
            "the weights do not fit the architecture", where=str(bundle.weights_path), found=str(error)
        ) from error
    module = channels_last(fold_batchnorm(module), device)
    module = pack(module) if packed else module.requires_grad_(False)
    if bundle.takes_days and not days:
        raise InputError(
            "the network asks for the day of each date", where="lane", mend="give a cube with time"
        )
    more = (torch.tensor(days, dtype=torch.float32, device=device),) if bundle.takes_days else ()
    return RegisteredNetwork(module, more)


def _onnx_network(bundle: Bundle, device: str) -> Network:
    """Open an ONNX network from checked bytes, so that it can refer to no file beside it."""
    import onnxruntime
    import torch

    provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise InputError(
            "this ONNX Runtime cannot use the device", where="device", found=device, mend="use device cpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content = bundle.read_weights()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=[provider])
    except Exception as error:  # onnxruntime raises a dozen kinds, all of them its own
        raise DataError("cannot open the ONNX network", where=str(bundle.weights_path)) from error
    name, output = _onnx_names(session, bundle)
    layout = bundle.layout

    def run(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        feed = _fed(x_BTCHW, layout.order).contiguous().cpu().numpy()
        (found,) = session.run([output], {name: feed})
        if bundle.pixelwise and found.ndim == 2:  # (row, K) -> (1, K, row, 1)
            outputs_BKHW = torch.from_numpy(found).T[None, ..., None]
        else:
            outputs_BKHW = torch.from_numpy(np.moveaxis(found, layout.class_axis, 1))
        _check_output(bundle, tuple(outputs_BKHW.shape), x_BTCHW)
        return outputs_BKHW

    return run


def _fed(x_BTCHW: torch.Tensor, order: str) -> torch.Tensor:
    """Bring windows, or rows of pixels (1, T, C, rows, 1), into the order that an ONNX network wants."""
    if order == "NF":
        return x_BTCHW[0, ..., 0].flatten(0, 1).T
    if order == "NTC":
        return x_BTCHW[0, ..., 0].permute(2, 0, 1)
    x_BFHW = x_BTCHW.flatten(1, 2)
    return x_BFHW.permute(0, 2, 3, 1) if order == "NHWC" else x_BFHW


def _onnx_names(session: Any, bundle: Bundle) -> tuple[str, str]:
    """Find the input and output, those of the layout or the only ones."""
    inputs, outputs = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    for field, wanted, names in (
        ("input_name", bundle.layout.input_name, inputs),
        ("output_name", bundle.layout.output_name, outputs),
    ):
        if wanted and wanted not in names:
            raise InputError(
                "the ONNX network has no such name",
                where=f"landweave:layout.{field}",
                found=wanted,
                limit=names,
            )
    return bundle.layout.input_name or inputs[0], bundle.layout.output_name or outputs[0]


def _check_output(bundle: Bundle, shape_BKHW: tuple[int, ...], x_BTCHW: torch.Tensor) -> None:
    sides = [side // bundle.layout.stride for side in x_BTCHW.shape[3:]]
    limit = (len(x_BTCHW), len(bundle.classes.classes), *sides)
    if shape_BKHW != limit:
        raise InputError(
            "the ONNX network's output is not what the layout says",
            where="landweave:layout.class_axis",
            found=shape_BKHW,
            limit=f"{limit} (batch, class, y, x)",
        )


def _check_device(torch: Any, device: str) -> None:
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise InputError(
            "no such device", where="device", found=device, limit="cpu, or cuda where there is one"
        )


def _exact_gpu(torch: Any) -> None:
    """Full float32 and one fixed algorithm per shape, in this process."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def _one_thread() -> None:
    """Hold torch to one thread here: OpenMP keeps the setting for each calling thread by itself."""
    import torch

    if not getattr(_thread, "held", False) or torch.get_num_threads() != 1:
        torch.set_num_threads(1)
        _thread.held = True


def instruction_set() -> str:
    """Name what the bits of a CPU map depend on beside the library versions, e.g. ``x86_64 AVX512``."""
    import platform

    import torch

    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"

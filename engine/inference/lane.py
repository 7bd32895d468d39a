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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.inference.bundle import Bundle
from engine.models.normalise import prepare
from engine.values.errors import DataError, InputError, SpecError
from engine.values.lattice import PROBABILITY_ONE

if TYPE_CHECKING:
    import torch

_CPU_BATCH = 1  # measured: larger batches leave the cache and are slower with one thread
_GPU_BATCH = 16

_lanes: dict[tuple[str, str], Lane] = {}
_lanes_lock = threading.Lock()
_thread = threading.local()


def lane_for(bundle: Bundle, device: str = "cpu") -> Lane:
    """Return this process's lane of a bundle; built once, whichever thread asks first.

    Args:
        bundle: The model.
        device: ``cpu``, ``cuda`` or ``cuda:n``.

    Raises:
        DataError: If the weights are damaged or do not fit the architecture.
        InputError: If the device is not there.
    """
    key = (bundle.digest(), device)
    with _lanes_lock:
        if key not in _lanes:
            _lanes[key] = Lane(bundle, device)
        return _lanes[key]


class Lane:
    """One model on one device.

    Use `lane_for` to share it within a process; a pickled lane becomes the shared one where it arrives.

    Args:
        bundle: The model.
        device: ``cpu``, ``cuda`` or ``cuda:n``.
        batch: Windows per evaluation; by default 1 on a CPU and for ONNX, 16 on a GPU. Two lanes with
            different batches may differ in the last bits of a probability.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", batch: int | None = None) -> None:
        _one_thread()
        self.bundle, self.device = bundle, device
        default = _CPU_BATCH if device == "cpu" or bundle.kind == "onnx" else _GPU_BATCH
        self.batch = default if batch is None else batch
        self._logits = network_of(bundle, device)
        self._count = 0
        self._count_lock = threading.Lock()
        self._device_lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return lane_for, (self.bundle, self.device)

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
            x_BTCHW: uint16, any number of windows of the lattice's size, 0 = no data.

        Returns:
            Probabilities (B, K, H, W), int32 fixed point: 0..65535 = round(p * 65535).

        Raises:
            SpecError: If dtype, dates, bands or window are not the bundle's.
            DataError: If the network gives values that are not finite.
        """
        self._check(x_BTCHW)
        _one_thread()
        n_windows, _, _, height, width = x_BTCHW.shape
        n_classes = len(self.bundle.classes.classes)
        out_BKHW = np.empty((n_windows, n_classes, height, width), np.int32)
        for start in range(0, n_windows, self.batch):
            part_BTCHW = x_BTCHW[start : start + self.batch]
            out_BKHW[start : start + self.batch] = self._run_batch(part_BTCHW)
        with self._count_lock:
            self._count += n_windows
        return out_BKHW

    def _run_batch(self, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        import torch

        missing = self.batch - len(x_BTCHW)
        if missing:
            padding = np.zeros((missing, *x_BTCHW.shape[1:]), np.uint16)
            full_BTCHW = np.concatenate([x_BTCHW, padding])
        else:
            full_BTCHW = np.ascontiguousarray(x_BTCHW)
        if self.device == "cpu":
            return self._evaluate(torch, full_BTCHW)[: len(x_BTCHW)]
        with self._device_lock:
            return self._evaluate(torch, full_BTCHW)[: len(x_BTCHW)]

    def _evaluate(self, torch: Any, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        bundle = self.bundle
        with torch.inference_mode():
            windows = [
                prepare(_tensor(torch, x_TCHW, self.device)[None], bundle.normalisation) for x_TCHW in x_BTCHW
            ]
            logits_BKHW = self._logits(_join([x for x, _ in windows]), _join([v for _, v in windows]))
            fixed = [
                fixed_point(logits_KHW, bundle.temperature, bundle.layout.output)
                for logits_KHW in logits_BKHW
            ]
            found: NDArray[np.int32] = torch.stack(fixed).cpu().numpy()
        return found

    def _check(self, x_BTCHW: NDArray[np.uint16]) -> None:
        bundle, window = self.bundle, self.bundle.lattice.window_px
        limit = (bundle.n_dates, len(bundle.spec.bands), window, window)
        if x_BTCHW.dtype != np.uint16 or x_BTCHW.ndim != 5 or x_BTCHW.shape[1:] != limit:
            raise SpecError(
                "the windows are not what the bundle was trained on",
                where="lane (date, band, y, x)",
                found=f"{x_BTCHW.dtype} {x_BTCHW.shape[1:]}",
                limit=f"uint16 {limit}",
                mend="open the cube with the bundle's own spec (bundle.spec)",
            )


def fixed_point(logits_KHW: torch.Tensor, temperature: float, output: str = "logits") -> torch.Tensor:
    """Turn one window's outputs into fixed-point probabilities.

    Args:
        logits_KHW: float32; logits, or probabilities when `output` says so.
        temperature: ``p = softmax(logits / temperature)`` (Guo et al. 2017).
        output: ``logits`` or ``probabilities``.

    Returns:
        int32 (K, H, W), 0..65535; ``round(p * 65535)``, halves to even.

    Raises:
        DataError: If a value is not finite.
    """
    import torch

    if not bool(torch.isfinite(logits_KHW).all()):
        raise DataError(
            "the network gave values that are not finite",
            where="lane",
            mend="check the bundle's normalisation and the cube's values",
        )
    scores_KHW = logits_KHW.contiguous()
    if output == "probabilities":
        if temperature == 1.0:
            return torch.round(scores_KHW.clamp(0, 1) * PROBABILITY_ONE).to(torch.int32)
        scores_KHW = torch.log(scores_KHW.clamp_min(1e-12))
    p_KHW = torch.softmax(scores_KHW / temperature, dim=0)
    return torch.round(p_KHW * PROBABILITY_ONE).to(torch.int32)


def _tensor(torch: Any, x_TCHW: NDArray[np.uint16], device: str) -> torch.Tensor:
    # A copy: torch refuses to share memory that is read-only, and its own memory is always aligned alike.
    return torch.tensor(x_TCHW, device=device)


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return parts[0] if len(parts) == 1 else torch.cat(parts)


Network = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""``(x_BTCHW, valid_BTHW) -> outputs_BKHW``, all float32."""


def network_of(bundle: Bundle, device: str) -> Network:
    """Open a bundle's network.

    Raises:
        DataError: If the weights are damaged or do not fit the architecture.
        InputError: If the device is not there.
    """
    return _onnx_network(bundle, device) if bundle.kind == "onnx" else _network(bundle, device)


def _network(bundle: Bundle, device: str) -> Network:
    """Build a registry network: batch norms folded, channels last (measured: 1.5 times as fast)."""
    import torch
    from safetensors.torch import load

    from engine.models.fold import fold_batchnorm
    from engine.models.registry import build

    _check_device(torch, device)
    if device != "cpu":
        _exact_gpu(torch)
    module = build(str(bundle.architecture), bundle.config.model_dump() if bundle.config else {})
    try:
        module.load_state_dict(load(bundle.read_weights()))
    except Exception as error:  # safetensors and torch raise their own kinds
        raise DataError(
            "the weights do not fit the architecture", where=str(bundle.weights_path), found=str(error)
        ) from error
    module = fold_batchnorm(module).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    module.requires_grad_(False)

    def run(x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module(x_BTCHW, valid_BTHW)
        return found

    return run


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
        x_BFHW = x_BTCHW.flatten(1, 2)
        feed = x_BFHW.permute(0, 2, 3, 1) if layout.order == "NHWC" else x_BFHW
        (found,) = session.run([output], {name: feed.contiguous().cpu().numpy()})
        outputs_BKHW = torch.from_numpy(np.moveaxis(found, layout.class_axis, 1))
        _check_output(bundle, tuple(outputs_BKHW.shape), len(x_BTCHW))
        return outputs_BKHW

    return run


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


def _check_output(bundle: Bundle, shape_BKHW: tuple[int, ...], batch: int) -> None:
    window = bundle.lattice.window_px
    limit = (batch, len(bundle.classes.classes), window, window)
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

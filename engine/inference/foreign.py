"""Published networks that run as they are: what a bundle must say about each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.inference.bundle import Bundle, BundleFields, create_onnx_bundle, save_bundle
from engine.inference.manifest import Layout
from engine.models.normalise import LogSigmoid, Standard
from engine.models.presto_config import PRESTO_FEATURES, PrestoConfig
from engine.models.registry import build, check_config
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.head import Values
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec

# Names, order and colours: Brown et al. 2022 (doi:10.1038/s41597-022-01307-4) and its catalogue page.
_DYNAMIC_WORLD = (
    ("water", "#419bdf"),
    ("trees", "#397d49"),
    ("grass", "#88b053"),
    ("flooded_vegetation", "#7a87c6"),
    ("crops", "#e49635"),
    ("shrub_and_scrub", "#dfc35a"),
    ("built", "#c4281b"),
    ("bare", "#a59b8f"),
    ("snow_and_ice", "#b39fe1"),
)


def dynamic_world_classes() -> ClassScheme:
    """Return the nine classes of Dynamic World; label = index of the output + 1, because 0 is no data.

    >>> dynamic_world_classes().names[4], dynamic_world_classes().values[4]
    ('crops', 5)
    """
    return ClassScheme(
        classes=tuple(
            LandClass(value=i + 1, name=name, colour=colour, codes=(i,))
            for i, (name, colour) in enumerate(_DYNAMIC_WORLD)
        )
    )


def dynamic_world(
    folder: str | Path, onnx: str | Path, normalisation: str | Path, lattice: Lattice | None = None
) -> Bundle:
    """Wrap the Dynamic World network (google/dynamicworld, Apache-2.0), exported to ONNX, as a bundle.

    The network looks at one acquisition of nine bands. It was trained on top-of-atmosphere reflectance
    (L1C); the spec asks for single, unmasked acquisitions and leaves the choice of product to the search.

    Args:
        folder: Where the bundle is written.
        onnx: The network: input (N, H, W, 9), output logits (N, H, W, 9).
        normalisation: JSON with ``centre`` and ``scale`` per band.
        lattice: Windows; by default 256 px with an overlap of 96.

    Raises:
        InputError: If a file cannot be read.
    """
    fields = BundleFields(
        name="dynamic-world",
        spec=CubeSpec(
            bands=("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"),
            period=None,
            reducer="first",
            mask=(),
        ),
        n_dates=1,
        classes=dynamic_world_classes(),
        lattice=lattice or Lattice(256, 96, "hann"),
        normalisation=LogSigmoid.from_file(normalisation),
        description="Dynamic World: nine land cover classes from one Sentinel-2 L1C acquisition.",
        licence="Apache-2.0",
    )
    layout = Layout(order="NHWC", output="logits", class_axis=3)
    return create_onnx_bundle(folder, onnx, layout, fields, architecture="Dynamic World FCNN")


PRESTO_REACH = 18.0
"""No feature can lie beyond: sqrt(127) times the largest gain of the last normalisation, plus its largest shift."""


def presto(
    folder: str | Path,
    weights: str | Path,
    spec: CubeSpec,
    n_dates: int | None = None,
    place: tuple[float, float] | None = None,
) -> Bundle:
    """Write Presto (Tseng et al. 2023, arXiv:2304.14065) as a bundle that maps its 128 features of each pixel.

    It was trained on monthly top-of-atmosphere reflectance (L1C); surface reflectance is a little off
    its normalisation, as WorldCereal's use of it is.

    Args:
        folder: Where the bundle is written.
        weights: The published state dict (nasaharvest/presto or WorldCereal/prometheo): read as numbers alone.
        spec: Monthly cubes; bands that Presto does not know are refused, those that the cube lacks are masked.
        n_dates: Months of the series; None: any number that the weights know.
        place: Latitude and longitude of the area in degrees; None leaves the place out.

    Raises:
        InputError: If the weights are not Presto's, or the bands or the period do not suit it.
        TrustError: If the weights file holds anything but tensors; it is not run.
    """
    from engine.inference.state import read_state_dict

    _check_monthly(spec)
    state = read_state_dict(weights)
    own = {k: v for k, v in state.items() if k.startswith("encoder.")}
    positions = own.get("encoder.pos_embed")
    config = check_config(
        "presto",
        {
            "n_dates": n_dates,
            "n_bands": len(spec.bands),
            "bands": spec.bands,
            "place": place,
            "n_positions": 24 if positions is None else positions.shape[1],
        },
    )
    module = build("presto", config.model_dump()).eval()
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(
            "the weights are not those of Presto's encoder", where=str(weights), found=str(error)[:300]
        ) from error
    fields = BundleFields(
        name="presto",
        spec=spec,
        n_dates=n_dates,
        classes=ClassScheme.from_names(f"feature {i}" for i in range(PRESTO_FEATURES)),
        lattice=Lattice(1, 0),
        normalisation=Standard(mean=(0.0,) * len(spec.bands), std=(10000.0,) * len(spec.bands)),
        head=Values(variable="embedding", low=-PRESTO_REACH, high=PRESTO_REACH),
        description="Presto: 128 features of each pixel from its months.",
        licence="MIT",
    )
    return save_bundle(folder, module, "presto", fields)


def _check_monthly(spec: CubeSpec) -> None:
    if spec.period not in ("1MS", "MS"):
        raise InputError("Presto looks at months", where="cube.period", found=spec.period, limit="1MS")


def presto_classes(
    folder: str | Path, features: Bundle, estimator: Any, classes: ClassScheme, name: str = "presto classes"
) -> Bundle:
    """Put a fitted linear classifier on top of Presto's features, as one network.

    Args:
        folder: Where the bundle is written.
        features: What `presto` wrote.
        estimator: A fitted `sklearn.linear_model.LogisticRegression` on the 128 features, e.g. those that
            ``predict(cube, features)`` gives at the samples (as numbers: ``stored * scale + offset``).
        classes: In the order of ``estimator.classes_``.
        name: Short name.

    Raises:
        InputError: If the features are not Presto's, or the classifier does not fit features or classes.
    """
    import torch

    from engine.inference.state import read_state_dict

    if not isinstance(config := features.config, PrestoConfig) or config.head != "embedding":
        raise InputError("these are not Presto's features", where=str(features.path))
    weight, bias = torch.tensor(estimator.coef_), torch.tensor(estimator.intercept_)
    if len(weight) == 1:  # of two classes only the second has a score; the first's is 0
        weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
    found, limit = tuple(weight.shape), (len(classes.classes), PRESTO_FEATURES)
    if found != limit:
        raise InputError("the classifier does not fit", where="(classes, features)", found=found, limit=limit)
    sizes = {**config.model_dump(), "head": "linear", "n_classes": len(classes.classes)}
    module = build("presto", sizes).eval()
    head = {"head.weight": weight.float(), "head.bias": bias.float()}
    module.load_state_dict(read_state_dict(features.weights_path) | head)
    fields = BundleFields(
        name=name,
        spec=features.spec,
        n_dates=features.n_dates,
        classes=classes,
        lattice=features.lattice,
        normalisation=features.normalisation,
        description="A linear classifier on Presto's features.",
        licence=features.licence,
    )
    return save_bundle(folder, module, "presto", fields)

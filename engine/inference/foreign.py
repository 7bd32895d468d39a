"""Published networks that run as they are: what a bundle must say about each."""

from __future__ import annotations

from pathlib import Path

from engine.inference.bundle import Bundle, BundleFields, create_onnx_bundle
from engine.inference.manifest import Layout
from engine.models.normalise import LogSigmoid
from engine.values.classes import ClassScheme, LandClass
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

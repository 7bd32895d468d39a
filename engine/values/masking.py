"""What hides the ground: the masks that a cube's spec may name. Which pixels they hide, `engine.cube` says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.values.errors import TrustError


class _Mask(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SclMask(_Mask):
    """Mask by the L2A scene classification (SCL, 20 m; ESA Sentinel-2 L2A product definition).

    Attributes:
        classes: SCL values that hide the ground. The default: no data 0, saturated 1, cloud shadow 3,
            cloud medium 8 and high 9 probability, thin cirrus 10. Snow (11) stays.
        dilate_m: Cloud and shadow classes (3, 8, 9, 10) grow by this many metres (square neighbourhood).
        dilate_class_m: Other distances for single classes, in metres: ``{3: 100, 10: 20}``. A class that
            ``classes`` does not list hides nothing, so it cannot be named here.
    """

    kind: Literal["scl"] = "scl"
    classes: tuple[int, ...] = (0, 1, 3, 8, 9, 10)
    dilate_m: float = Field(default=60.0, ge=0, le=2000)
    dilate_class_m: tuple[tuple[int, Annotated[float, Field(ge=0, le=2000)]], ...] = ()

    @field_validator("dilate_class_m", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return tuple(sorted((int(k), v) for k, v in value.items())) if isinstance(value, Mapping) else value

    @field_validator("dilate_class_m")
    @classmethod
    def _of_listed_classes(cls, value: tuple[tuple[int, float], ...], info: Any) -> Any:
        named = [c for c, _ in value]
        idle = sorted(set(named) - set(info.data.get("classes", named)))
        if idle or len(set(named)) != len(named):
            raise ValueError(f"dilate_class_m names {named}: once each, and only classes that hide")
        return value


_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class CloudProbabilityMask(_Mask):
    """Mask by a cloud (and snow) probability layer in percent, 20 m: L2A's MSK_CLDPRB, or s2cloudless'.

    Attributes:
        threshold: Pixels at or above this percentage are cloud. 0 in the file is both "0 %" and "no data";
            it is clear either way, so a threshold of 0 hides from 1 % on.
        dilate_m: Cloud grows by this many metres (square neighbourhood).
        band: Layer that holds the percentage.
    """

    kind: Literal["cloud_probability"] = "cloud_probability"
    threshold: float = Field(default=40.0, ge=0, le=100)
    dilate_m: float = Field(default=60.0, ge=0, le=2000)
    band: Literal["cloud", "snow"] = "cloud"


class ModelMask(_Mask):
    """Mask by a model or function of the scene's own pixels.

    It is asked for fixed blocks of the grid with a margin, never for chunks, so that no chunking moves it.

    Attributes:
        model: ``s2cloudless`` or ``omnicloudmask`` (optional packages), the path of an ONNX file, or
            ``package.module:function`` of installed code.
        bands: Bands that the model is given, in its order; the two packages know theirs.
        resolution_m: Pixel size at which it is asked.
        margin_px: Pixels that it sees around each block, at that size.
        threshold: Values above this hide the ground (a probability, 0..1); None: any class but 0 does.
        dilate_m: What it hides grows by this many metres (square neighbourhood).
        sha256: Of what answers (ONNX file, s2cloudless' model file, omnicloudmask's version, the function's
            source file), filled in when the cube is planned.
    """

    kind: Literal["model"] = "model"
    model: str
    bands: tuple[str, ...] = ()
    resolution_m: float = Field(default=20.0, gt=0)
    margin_px: int = Field(default=32, ge=0, le=512)
    threshold: float | None = None
    dilate_m: float = Field(default=0.0, ge=0, le=2000)
    sha256: str | None = None

    @property
    def form(self) -> Literal["s2cloudless", "omnicloudmask", "onnx", "function"]:
        """What kind of model it is; ``function`` alone is code that a spec chooses."""
        if self.model in ("s2cloudless", "omnicloudmask"):
            return self.model  # type: ignore[return-value]
        return "onnx" if self.model.lower().endswith(".onnx") else "function"

    @field_validator("model")
    @classmethod
    def _known_form(cls, value: str) -> str:
        packaged = value in ("s2cloudless", "omnicloudmask") or value.lower().endswith(".onnx")
        if not packaged and not _FUNCTION.fullmatch(value):
            raise ValueError(
                f"mask model {value!r}: s2cloudless, omnicloudmask, *.onnx or package.module:function"
            )
        return value

    @field_validator("bands", mode="before")
    @classmethod
    def _common_names(cls, value: Any) -> Any:
        from engine.values.bands import common_name

        return tuple(common_name(v) for v in value)


Mask = Annotated[SclMask | CloudProbabilityMask | ModelMask, Field(discriminator="kind")]

_SHORT: dict[str, Mapping[str, Any]] = {
    "scl": {"kind": "scl"},
    "cloud_probability": {"kind": "cloud_probability"},
    # 60 m, the size of its coarsest bands: at 20 m it takes nine times as long
    "s2cloudless": {"kind": "model", "model": "s2cloudless", "threshold": 0.4, "resolution_m": 60.0},
    "omnicloudmask": {"kind": "model", "model": "omnicloudmask"},
}


def masks_by_name(value: Any) -> Any:
    """Accept ``"scl"``, one mask, several, None or ``"none"``, and return a tuple of masks.

    >>> masks_by_name("scl"), masks_by_name(None)
    (({'kind': 'scl'},), ())
    """
    if value in (None, "none", "valid"):
        return ()
    several = value if isinstance(value, list | tuple) else (value,)
    return tuple(_SHORT.get(one, one) if isinstance(one, str) else one for one in several)


def refuse_functions(masks: tuple[Mask, ...], where: str) -> None:
    """Refuse masks that choose code, for specs that came in a file from somebody else; nothing is imported.

    Args:
        masks: Of the spec.
        where: The file and field that named them.

    Raises:
        TrustError: Naming the first function.
    """
    for mask in masks:
        if isinstance(mask, ModelMask) and mask.form == "function":
            raise TrustError(
                "the cubes are masked by a function, which is code that this file chooses",
                where=where,
                found=mask.model,
                limit="scl, cloud_probability, s2cloudless, omnicloudmask or an ONNX file",
                mend="look at that function; if you trust it, load_bundle(path, trust_model=True)",
            )

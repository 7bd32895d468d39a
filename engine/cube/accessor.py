"""``cube.landweave``: looking at a cube in a notebook without pulling it.

Everything here reads a coarse cube (`engine.cube.coarse`); registered when `engine.cube.cube` is loaded.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from pydantic import ValidationError

from engine.cube.coarse import Coarse, coarse_of
from engine.cube.origins import Origin, origin_of
from engine.cube.picture import Picture, stretched
from engine.values.bands import common_name
from engine.values.errors import InputError
from engine.values.georef import georef_of
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_DATES_PX = 128
_DATES_MOST_PX = 1 << 20
_BARS, _DOTS = "#2f6f73", "#d9822b"


@xr.register_dataset_accessor("landweave")
class LandweaveAccessor:
    """Looks at a cube; see the methods.

    Examples:
        >>> cube = open_cube(items, spec, area=area)                     # doctest: +SKIP
        >>> cube.landweave                                               # doctest: +SKIP
        >>> cube.landweave.rgb(time="2023-06")                           # doctest: +SKIP
        >>> cube.landweave.plot_dates()                                  # doctest: +SKIP
        >>> cube.sel(time="2023-06").landweave.explore().save("a.html")  # doctest: +SKIP
    """

    def __init__(self, cube: xr.Dataset) -> None:
        self._cube = cube

    def rgb(
        self,
        time: Any = None,
        bands: Sequence[str] = ("red", "green", "blue"),
        max_px: int = 800,
        stretch: tuple[float, float] = (2, 98),
    ) -> Picture:
        """Make a picture of one time step.

        A live cube is opened again on a coarser grid and reads overviews: at most ``max_px**2`` pixels per
        scene and band of the step. Another cube reads whole chunks in its middle, at most 16 million
        pixels (`engine.cube.coarse.MOST_PX`) a band.

        Args:
            time: A date or month as xarray selects it, or the number of a step; None takes the step with
                the most scenes (of a cube that is not live: the middle one).
            bands: Three bands for red, green and blue.
            max_px: Most pixels a side.
            stretch: Percentiles of the valid pixels that become 0 and 255, per band.

        Raises:
            InputError: If there is no such step or band.

        Examples:
            >>> cube.landweave.rgb("2023-06", bands=("nir", "red", "green")).save("june.png")  # doctest: +SKIP
        """
        return self._picture(time, bands, max_px, stretch)[0]

    def dates(self) -> pd.DataFrame:
        """Tell per time step how often the ground was seen, from a look of 128 pixels a side.

        Returns:
            Table with ``start``, ``observations`` (mean number of clear dates of a pixel), ``coverage``
            (percent of pixels with at least one), ``scenes`` (None if the cube is not live).
        """
        import pandas as pd

        coarse = coarse_of(self._cube, _DATES_PX, None, _DATES_MOST_PX)
        seen = _with_time(coarse.cube)["observations"].transpose("time", "y", "x")
        counts = seen.compute(scheduler="threads").values.reshape(seen.sizes["time"], -1)
        starts = pd.to_datetime(np.atleast_1d(self._cube["time"].values))
        ends = _ends(self._cube)
        scenes: list[int | None] = [None] * len(starts)
        if coarse.origin is not None:
            days = [i.datetime.replace(tzinfo=None) for i in coarse.origin.items]
            scenes = [sum(bool(a <= d < b) for d in days) for a, b in zip(starts, ends, strict=True)]
        return pd.DataFrame(
            {
                "start": starts,
                "observations": counts.mean(axis=1),
                "coverage": 100 * (counts > 0).mean(axis=1),
                "scenes": scenes,
            }
        )

    def plot_dates(self, ax: Axes | None = None) -> Axes:
        """Chart the time steps: mean clear observations as bars, cloud cover of each scene as a dot.

        Returns:
            The axes; bars have their coverage in percent written above.
        """
        import pandas as pd

        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots(figsize=(9, 3.5), layout="constrained")
        table = self.dates()
        starts = table["start"]
        spans = [
            max(1.0, (b - a) / pd.Timedelta("1D")) for a, b in zip(starts, _ends(self._cube), strict=True)
        ]
        bars = ax.bar(
            starts, table["observations"], width=[0.9 * s for s in spans], align="edge", color=_BARS
        )
        if len(table) <= 24:
            ax.bar_label(bars, [f"{c:.0f} %" for c in table["coverage"]], fontsize=7, color="#66727a")
        ax.set(ylabel="clear observations a pixel", title="how often the ground was seen, and how much of it")
        ax.margins(y=0.15)
        origin = origin_of(self._cube)
        first, last = starts.min(), max(_ends(self._cube))
        scenes = [] if origin is None else [i for i in origin.items if i.cloud_cover is not None]
        days = [(i.datetime.replace(tzinfo=None), i.cloud_cover) for i in scenes]
        shown = [(d, c) for d, c in days if first <= d < last]
        if shown:
            right = ax.twinx()
            right.plot(*zip(*shown, strict=True), "o", ms=3, color=_DOTS, alpha=0.8)
            right.set(ylabel="cloud cover of a scene, %", ylim=(-3, 103))
            right.yaxis.label.set_color(_DOTS)
        return ax

    def explore(
        self,
        time: Any = None,
        bands: Sequence[str] = ("red", "green", "blue"),
        max_px: int = 800,
        stretch: tuple[float, float] = (2, 98),
    ) -> Any:
        """Show a time step on an interactive map, with the cube's outline and its scenes' footprints.

        Args:
            time: As in `rgb`.
            bands: As in `rgb`.
            max_px: As in `rgb`.
            stretch: As in `rgb`.

        Returns:
            A ``folium.Map``.

        Raises:
            InputError: If folium is not installed, or there is no such step or band.
        """
        from engine.cube.explore import folium_map

        return folium_map(self.map_layers(time, bands, max_px, stretch))

    def map_layers(
        self,
        time: Any = None,
        bands: Sequence[str] = ("red", "green", "blue"),
        max_px: int = 800,
        stretch: tuple[float, float] = (2, 98),
    ) -> Any:
        """Make what `explore` shows, for any map library; see `engine.cube.explore.MapLayers`."""
        from engine.cube.explore import map_layers

        picture, coarse, step = self._picture(time, bands, max_px, stretch)
        grid, box = georef_of(coarse.cube)
        start, end = np.atleast_1d(self._cube["time"].values)[step], _ends(self._cube)[step]
        items = () if coarse.origin is None else coarse.origin.items
        scenes = [i for i in items if start <= np.datetime64(i.datetime.replace(tzinfo=None)) < end]
        return map_layers(picture, grid, box, scenes)

    def _picture(
        self, time: Any, bands: Sequence[str], max_px: int, stretch: tuple[float, float]
    ) -> tuple[Picture, Coarse, int]:
        names = tuple(common_name(b) for b in bands)
        have = [str(b) for b in np.atleast_1d(self._cube["band"].values)]
        if len(names) != 3 or set(names) - set(have):
            raise InputError(
                "a picture needs three bands of the cube", where="bands", found=", ".join(names),
                limit=f"three of {', '.join(have)}", mend="pass bands=",
            )  # fmt: skip
        step = self._step(time)
        one = self._cube.isel(time=step) if "time" in self._cube.dims else self._cube
        wanted = tuple(dict.fromkeys(names))
        coarse = coarse_of(one, max_px, wanted)
        chosen = _with_time(coarse.cube)["reflectance"].isel(time=0).sel(band=list(wanted))
        planes = chosen.transpose("band", "y", "x").compute(scheduler="threads").values
        values = planes[[wanted.index(n) for n in names]]
        valid = np.asarray(values.all(axis=0))
        array = xr.DataArray(
            stretched(values, valid, stretch),
            dims=("y", "x", "rgb"),
            coords={"y": coarse.cube["y"], "x": coarse.cube["x"], "rgb": list(names)},
            name="picture",
        )
        date = np.datetime_as_string(np.atleast_1d(self._cube["time"].values)[step], unit="D")
        title = f"{', '.join(names)} {date}{f' ({coarse.note})' if coarse.note else ''}"
        return Picture(array, valid, title), coarse, step

    def _step(self, time: Any) -> int:
        """Find the number of a time step."""
        times = np.atleast_1d(self._cube["time"].values)
        if time is None:
            origin = origin_of(self._cube)
            return times.size // 2 if origin is None else _fullest(origin, times, _ends(self._cube))
        if isinstance(time, int | np.integer) and -times.size <= time < times.size:
            return int(time) % times.size
        steps = xr.DataArray(np.arange(times.size), coords={"time": times}, dims="time")
        try:
            found = np.atleast_1d(steps.sel(time=time).values)
        except (KeyError, TypeError, IndexError):
            found = np.array([], np.int64)
        if not found.size:
            known = ", ".join(np.datetime_as_string(times[:12], unit="D"))
            raise InputError("the cube has no such time step", where="time", found=time, limit=known)
        return int(found[0])

    def __repr__(self) -> str:
        lines = describe(self._cube)
        width = max(map(len, lines))
        return "landweave cube\n" + "\n".join(f"  {k:<{width}}  {v}" for k, v in lines.items())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th>"
            f"<td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in describe(self._cube).items()
        )
        return f"<table><caption>landweave cube</caption>{rows}</table>"


def describe(cube: xr.Dataset) -> dict[str, str]:
    """Say in a few lines what a cube is: area, CRS, dates, bands, what a pixel is made of, bytes."""
    grid, box = georef_of(cube)
    left, bottom, right, top = grid.bounds_of_box(box)
    height, width = box.shape_yx
    lines = {
        "area": f"{width:,} x {height:,} pixels, {left:.10g} .. {right:.10g}, {bottom:.10g} .. {top:.10g}",
        "pixel": f"{grid.resolution_yx[1]:g} x {grid.resolution_yx[0]:g}",
        "CRS": _crs_name(grid.crs),
    }
    if "time" in cube.coords:
        times = np.datetime_as_string(np.atleast_1d(cube["time"].values), unit="D")
        span = str(times[0]) if len(times) == 1 else f"{times[0]} .. {times[-1]}"
        lines["dates"] = f"{len(times)}: {span}"
    if "band" in cube.coords:
        lines["bands"] = ", ".join(str(b) for b in np.atleast_1d(cube["band"].values))
    spec = _spec_of(cube)
    if spec is not None:
        lines["made of"] = _recipe(spec)
    origin = origin_of(cube)
    lines["scenes"] = f"{len(origin.items):,}, read when computed" if origin else "not known here"
    lines["bytes"] = f"{_size(cube.nbytes)} in {', '.join(map(str, cube.data_vars))}"
    return lines


def _crs_name(crs: str) -> str:
    from pyproj import CRS

    parsed = CRS.from_user_input(crs)
    authority = parsed.to_authority(min_confidence=100)
    return f"{parsed.name} ({':'.join(authority)})" if authority else parsed.name


def _spec_of(cube: xr.Dataset) -> CubeSpec | None:
    try:
        return CubeSpec.model_validate_json(cube.attrs.get("landweave_spec", ""))
    except (ValidationError, TypeError):
        return None


def _recipe(spec: CubeSpec) -> str:
    """Say what a pixel is made of."""
    reducer = spec.reducer if isinstance(spec.reducer, str) else spec.reducer.__class__.__name__
    period = spec.period if isinstance(spec.period, str) else type(spec.period).__name__.lower()
    steps = "each acquisition" if spec.period is None else f"{reducer} of the clear dates of {period}"
    masks = ", ".join(m.kind for m in spec.mask) or "none"
    filled = "" if spec.gap_fill is None else f"; gaps filled ({spec.gap_fill.method})"
    return f"{steps}; mask {masks}{filled}; reflectance x 10000, 0 = no data"


def _size(count: float) -> str:
    """Write bytes for people.

    >>> _size(123), _size(5.3e9)
    ('123 bytes', '5.3 GB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _ends(cube: xr.Dataset) -> list[Any]:
    """Return the end of each time step; a day after its start where the cube does not tell."""
    import pandas as pd

    if "time_bnds" in cube.coords:
        return list(pd.to_datetime(np.atleast_2d(cube["time_bnds"].values)[:, 1]))
    return [t + pd.Timedelta("1D") for t in pd.to_datetime(np.atleast_1d(cube["time"].values))]


def _fullest(origin: Origin, times: Any, ends: list[Any]) -> int:
    """Return the step with the most scenes, the first of equals."""
    days = [np.datetime64(i.datetime.replace(tzinfo=None)) for i in origin.items]
    counts = [sum(bool(a <= d < np.datetime64(b)) for d in days) for a, b in zip(times, ends, strict=True)]
    return int(np.argmax(counts))


def _with_time(cube: xr.Dataset) -> xr.Dataset:
    """Give a cube of one step its time dimension back."""
    return cube if "time" in cube.dims else cube.expand_dims("time")

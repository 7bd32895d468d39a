"""Spectral indices by name: their formulas, read from catalogues and never from the user's text.

The formulas come from the Awesome Spectral Indices catalogue (Montero et al. 2023, Scientific Data 10:197)
as the package spyndex ships it, and from the short table `OWN` of what is missing there. A formula is
parsed into a tree of plus, minus, times, divided by and power; nothing is ever passed to ``eval``.
"""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from engine.values.bands import band, find_band
from engine.values.errors import InputError

LETTERS: dict[str, str] = {
    "A": "coastal",
    "B": "blue",
    "G": "green",
    "R": "red",
    "RE1": "rededge1",
    "RE2": "rededge2",
    "RE3": "rededge3",
    "N": "nir",
    "N2": "nir08",
    "WV": "nir09",
    "S1": "swir16",
    "S2": "swir22",
}
"""The catalogue's letters for the bands of Sentinel-2."""


@dataclass(frozen=True)
class Index:
    """One spectral index.

    Attributes:
        name: Its usual short name; upper and lower case differ (``BAI`` and ``BaI`` are two indices).
        long_name: Its name in words.
        formula: In the catalogue's letters, reflectance 0..1.
        bands: Bands that it needs, landweave's names.
        constants: Value of each constant in the formula.
        domain: vegetation, water, soil, burn, urban, snow.
        reference: Where it was published.
    """

    name: str
    long_name: str
    formula: str
    bands: tuple[str, ...]
    constants: tuple[tuple[str, float], ...]
    domain: str
    reference: str

    @property
    def tree(self) -> Node:
        """The formula, parsed, with the constants put in."""
        return _parse(self.formula, self.constants)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for printing."""
        letters = {letter: name for letter, name in LETTERS.items() if name in self.bands}
        return {
            "name": self.name,
            "long_name": self.long_name,
            "formula": self.formula,
            "bands": letters,
            "constants": dict(self.constants),
            "domain": self.domain,
            "reference": self.reference,
        }


OWN: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "NDVI45",
        "Normalized Difference Vegetation Index of Bands 4 and 5",
        "(RE1 - R) / (RE1 + R)",
        "vegetation",
        "Delegido et al. 2011, https://doi.org/10.3390/s110707063",
    ),
    (
        "NDRE",
        "Normalized Difference Red Edge",
        "(N - RE1) / (N + RE1)",
        "vegetation",
        "Barnes et al. 2000, Proc. 5th Int. Conf. Precision Agriculture",
    ),
    (
        "CCCI",
        "Canopy Chlorophyll Content Index (ratio of NDRE and NDVI)",
        "((N - RE1) / (N + RE1)) / ((N - R) / (N + R))",
        "vegetation",
        "Barnes et al. 2000, Proc. 5th Int. Conf. Precision Agriculture",
    ),
    (
        "PSSRa",
        "Pigment Specific Simple Ratio, Chlorophyll a",
        "RE3 / R",
        "vegetation",
        "Blackburn 1998, https://doi.org/10.1080/014311698215919",
    ),
    (
        "GCVI",
        "Green Chlorophyll Vegetation Index",
        "N / G - 1",
        "vegetation",
        "Gitelson et al. 2003, https://doi.org/10.1029/2002GL016450",
    ),
    (
        "LAI",
        "Leaf Area Index estimated from EVI",
        "3.618 * (2.5 * (N - R) / (N + 6 * R - 7.5 * B + 1)) - 0.118",
        "vegetation",
        "Boegh et al. 2002, https://doi.org/10.1016/S0034-4257(01)00342-X",
    ),
    (
        "kNDVI",
        "Kernel NDVI, length scale (N + R) / 2",
        "tanh(((N - R) / (N + R)) ** 2)",
        "vegetation",
        "Camps-Valls et al. 2021, https://doi.org/10.1126/sciadv.abc7447",
    ),
    (
        "BSI",
        "Bare Soil Index",
        "((S1 + R) - (N + B)) / ((S1 + R) + (N + B))",
        "soil",
        "Rikimaru et al. 2002, Tropical Ecology 43:39",
    ),
)
"""Name, name in words, formula, domain and source of indices that the catalogue lacks or cannot compute.

The catalogue writes kNDVI with kernel values instead of bands; with the length scale that its authors
advise it is tanh(NDVI ** 2).
"""

CONSTANTS: dict[tuple[str, str], float] = {
    ("SAVI", "L"): 0.5,  # Huete 1988, Remote Sens. Environ. 25:295
    ("GSAVI", "L"): 0.5,  # Sripada et al. 2006, Agronomy J. 98:968
    ("SARVI", "L"): 0.5,  # Kaufman and Tanre 1992, IEEE TGRS 30:261
    ("MNLI", "L"): 0.5,  # Yang et al. 2008, Proc. SPIE 7155
    ("IBI", "L"): 0.5,  # Xu 2008, Int. J. Remote Sens. 29:4269
    ("NDPI", "alpha"): 0.74,  # Wang et al. 2017, Remote Sens. Environ. 196:1
    ("WCI1", "epsilon"): 1e-10,  # the catalogue's own note to its constant epsilon
    ("WCI2", "epsilon"): 1e-10,
}
"""The catalogue has one default for each constant, whatever the index; here a paper gives another."""

_LEFT_OUT = {"RWI"}  # its constant is a median over the image: another cut would give other values

Operation = Literal["add", "subtract", "multiply", "divide", "power", "tanh"]
Node = float | str | tuple[Any, ...]
"""A number, a band's name, or (operation, node, ...)."""

_OPERATIONS: dict[type[ast.operator], Operation] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
}


@functools.cache
def catalogue() -> Mapping[str, Index]:
    """Return every index that Sentinel-2's bands can give, by name, in alphabetical order."""
    import spyndex

    found = {}
    for name, entry in spyndex.indices.items():
        constants = _constants(name, [b for b in entry.bands if b not in LETTERS])
        if constants is not None and name not in _LEFT_OUT:
            bands = tuple(LETTERS[b] for b in LETTERS if b in entry.bands)
            found[name] = Index(
                name,
                entry.long_name,
                entry.formula,
                bands,
                constants,
                entry.application_domain,
                entry.reference,
            )
    for name, long_name, formula, domain, reference in OWN:
        used = {n.id for n in ast.walk(ast.parse(formula, mode="eval")) if isinstance(n, ast.Name)}
        bands = tuple(LETTERS[b] for b in LETTERS if b in used)
        found[name] = Index(name, long_name, formula.replace(" ", ""), bands, (), domain, reference)
    return dict(sorted(found.items(), key=lambda pair: (pair[0].lower(), pair[0])))


def _constants(index: str, names: Sequence[str]) -> tuple[tuple[str, float], ...] | None:
    """Return the constants of an index, or None where one has no value (another sensor's band)."""
    import spyndex

    values = []
    for name in names:
        if name.startswith("lambda") and (letter := name.removeprefix("lambda")) in LETTERS:
            value: float | None = band(LETTERS[letter]).wavelength_um * 1000
        else:
            known = spyndex.constants.get(name)
            value = CONSTANTS.get((index, name), None if known is None else known.default)
        if value is None:
            return None
        values.append((name, float(value)))
    return tuple(values)


def list_indices(name: str | None = None) -> list[Index]:
    """List the spectral indices that a cube's spec may name; with a name, that one.

    >>> list_indices("NDVI45")[0].bands
    ('red', 'rededge1')

    Raises:
        InputError: If there is no such index; names those that are spelled alike.
    """
    return list(catalogue().values()) if name is None else [find_index(name)]


def find_index(name: str) -> Index:
    """Find an index by its name.

    Raises:
        InputError: If there is no such index; names those that are spelled alike.
    """
    found = catalogue().get(name)
    if found is None:
        raise _unknown("unknown spectral index", name, list(catalogue()))
    return found


def find_measure(name: str) -> Index:
    """Find an index, or a band as an index whose formula is the band itself.

    >>> find_measure("B04").name, find_measure("red").tree
    ('red', 'red')

    Raises:
        InputError: If it is neither.
    """
    if name in catalogue():
        return catalogue()[name]
    known = find_band(name)
    if known is None or not known.wavelength_um:
        raise _unknown("unknown spectral index or band", name, list(catalogue()))
    return Index(known.name, f"{known.name} reflectance", known.name, (known.name,), (), "band", "")


def _unknown(what: str, name: str, known: Sequence[str]) -> InputError:
    lower: dict[str, str] = {}
    for entry in known:
        lower.setdefault(entry.lower(), entry)
    close = [lower[c] for c in difflib.get_close_matches(name.lower(), lower, n=5, cutoff=0.5)]
    return InputError(
        what,
        where="cube.features",
        found=name,
        limit=f"one like {', '.join(close)}" if close else None,
        mend="`landweave indices` lists them all",
    )


def require_bands(measures: Sequence[Index], bands: Sequence[str]) -> None:
    """Refuse measures whose bands a cube lacks.

    Args:
        measures: From `find_index` or `find_measure`.
        bands: The cube's bands, landweave's names.

    Raises:
        InputError: Names the first such index, the bands that it lacks and those that there are.
    """
    for measure in measures:
        lacking = [b for b in measure.bands if b not in bands]
        if lacking:
            raise InputError(
                f"{measure.name} needs a band that the cube lacks",
                where="cube.features",
                found=", ".join(bands),
                limit=", ".join(measure.bands),
                mend=f"add {', '.join(lacking)} to cube.bands",
            )


@functools.lru_cache(maxsize=1024)
def _parse(formula: str, constants: tuple[tuple[str, float], ...]) -> Node:
    """Parse a formula into a tree, numbers folded.

    >>> _parse("(N - R) * L", (("L", 0.5),))
    ('multiply', ('subtract', 'nir', 'red'), 0.5)
    """
    return _node(ast.parse(formula, mode="eval").body, dict(constants))


def _node(node: ast.expr, constants: Mapping[str, float]) -> Node:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id=name) if name in constants:
            return constants[name]
        case ast.Name(id=name):
            return LETTERS[name] if name in LETTERS else band(name).name
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _fold("subtract", 0.0, _node(operand, constants))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            exponent = _node(right, constants)
            if isinstance(exponent, float) and exponent > 0:
                return _fold("power", _node(left, constants), exponent)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _fold(_OPERATIONS[type(op)], _node(left, constants), _node(right, constants))
        case ast.Call(func=ast.Name(id="tanh"), args=[argument], keywords=[]):
            return ("tanh", _node(argument, constants))
    raise InputError("a formula holds something that is no arithmetic", found=ast.unparse(node))


def _fold(operation: Operation, left: Node, right: Node) -> Node:
    """Join two nodes; two numbers become one."""
    if isinstance(left, float) and isinstance(right, float):
        return float(getattr(np, operation)(left, right))
    return (operation, left, right)


def evaluate(node: Node, bands: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Compute a formula; whatever is divided by zero or no number is NaN.

    Args:
        node: From `Index.tree`.
        bands: (pixel,) float32 reflectance 0..1 of each band, NaN = no data.

    Returns:
        (pixel,) float32.

    >>> red, nir = np.float32([0.25, 0.0]), np.float32([0.75, 0.0])
    >>> evaluate(find_index("NDVI").tree, {"red": red, "nir": nir})
    array([0.5, nan], dtype=float32)
    """
    with np.errstate(divide="raise", over="ignore", invalid="ignore", under="ignore"):
        values = _value(node, bands)
    return _finite(values)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Copy, with infinities made NaN."""
    out = np.empty(values.size, np.float32)
    for i in range(values.size):
        value = values[i]
        out[i] = value if abs(value) < np.float32(np.inf) else np.float32(np.nan)
    return out


def _value(node: Node, bands: Mapping[str, NDArray[np.float32]]) -> Any:
    if isinstance(node, float):
        return node  # a Python number leaves float32 arrays float32 (NEP 50)
    if isinstance(node, str):
        return bands[node]
    operation, *parts = node
    values = [_value(part, bands) for part in parts]
    if operation == "power":
        return _power(*values)
    try:
        return getattr(np, operation)(*values)
    except FloatingPointError:  # divided by zero somewhere: NaN there, also inside a larger formula
        return np.divide(values[0], np.where(values[1] == 0, np.float32(np.nan), values[1]))


def _power(base: NDArray[np.float32], exponent: float) -> NDArray[np.float32]:
    """Square and square root are exactly rounded wherever a pixel stands in its block."""
    if exponent == 2:
        return base * base
    if exponent == 0.5:
        return np.sqrt(base)
    return np.power(base, np.float32(exponent))

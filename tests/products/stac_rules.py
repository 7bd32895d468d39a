"""Is a STAC document valid? By the core schemas that pystac brings, and by the rules of its extensions.

The extensions publish their JSON Schemas on the web alone, so what they ask for is stated here again, field
by field, after their documents: projection 2.0, raster 1.1, classification 2.0, file 2.1, processing 1.2.
Each rule refuses a field of its prefix that it does not know, as the published ones do.
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft7Validator
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource

_NUMBER, _TEXT, _WHOLE = {"type": "number"}, {"type": "string"}, {"type": "integer"}
_SIZES = [
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]


def _array(items: dict[str, Any], *counts: int, least: int = 1) -> dict[str, Any]:
    sizes: dict[str, Any] = {"anyOf": [{"minItems": n, "maxItems": n} for n in counts]} if counts else {}
    return {"type": "array", "items": items, "minItems": least, **sizes}


_CLASS = {
    "type": "object",
    "required": ["value", "name"],
    "properties": {
        "value": _WHOLE,
        "name": {"type": "string", "pattern": "^[0-9A-Za-z_-]+$"},
        "title": _TEXT,
        "description": _TEXT,
        "color_hint": {"type": "string", "pattern": "^[0-9A-Fa-f]{6}$"},
        "nodata": {"type": "boolean"},
        "percentage": _NUMBER,
        "count": _WHOLE,
    },
}
_BAND = {
    "type": "object",
    "minProperties": 1,
    "properties": {
        "data_type": {"enum": _SIZES},
        "nodata": {"anyOf": [_NUMBER, {"enum": ["nan", "inf", "-inf"]}]},
        "unit": _TEXT,
        "scale": _NUMBER,
        "offset": _NUMBER,
        "spatial_resolution": _NUMBER,
        "sampling": {"enum": ["area", "point"]},
    },
}
_CENTROID = {
    "type": "object",
    "required": ["lat", "lon"],
    "properties": {
        "lat": {"type": "number", "minimum": -90, "maximum": 90},
        "lon": {"type": "number", "minimum": -180, "maximum": 180},
    },
}
RULES: dict[str, dict[str, Any]] = {
    "projection/v2.0.0": {
        "proj:code": {"type": ["string", "null"], "pattern": "^[A-Za-z]+:[0-9A-Za-z]+$"},
        "proj:wkt2": {"type": ["string", "null"]},
        "proj:projjson": {"type": ["object", "null"]},
        "proj:bbox": _array(_NUMBER, 4, 6),
        "proj:centroid": _CENTROID,
        "proj:shape": _array(_WHOLE, 2),
        "proj:transform": _array(_NUMBER, 6, 9),
    },
    "raster/v1.1.0": {"raster:bands": _array(_BAND)},
    "classification/v2.0.0": {"classification:classes": {**_array(_CLASS), "uniqueItems": True}},
    "file/v2.1.0": {
        "file:checksum": {"type": "string", "pattern": "^[a-f0-9]+$"},
        "file:size": {"type": "integer", "minimum": 0},
    },
    "processing/v1.2.0": {
        "processing:expression": {"type": "object", "required": ["format", "expression"]},
        "processing:level": {"type": "string", "pattern": "^(RAW|L[0-4][A-Z]?)$"},
        "processing:lineage": _TEXT,
        "processing:software": {"type": "object", "additionalProperties": _TEXT},
    },
}
_ONE_OF_MANY = ("proj:code", "processing:level")  # a summary lists the values that occur


def _uri(extension: str) -> str:
    return f"https://stac-extensions.github.io/{extension}/schema.json"


def _prefix(fields: dict[str, Any]) -> str:
    return next(iter(fields)).split(":")[0]


def validate(document: dict[str, Any]) -> None:
    """Validate an item, a collection or a catalogue, with nothing fetched."""
    kind = {"Feature": "item", "Collection": "collection", "Catalog": "catalog"}[document["type"]]
    known = {uri: Resource.from_contents(s) for uri, s in get_local_schema_cache().items()}
    schema = known[f"https://schemas.stacspec.org/v1.1.0/{kind}-spec/json-schema/{kind}.json"].contents
    Draft7Validator(
        schema,
        registry=Registry().with_resources(known.items()),
        format_checker=Draft7Validator.FORMAT_CHECKER,
    ).validate(document)
    declared = set(document.get("stac_extensions", ()))
    unknown = declared - {_uri(name) for name in RULES}
    assert not unknown, unknown
    for name, fields in RULES.items():
        places = _places(document)
        if _uri(name) in declared:
            rule = {"properties": fields, "patternProperties": {f"^(?!{_prefix(fields)}:)": {}}}
            for place in places:
                Draft7Validator({**rule, "additionalProperties": False}).validate(place)
            assert any(_uses(place, fields) for place in _everywhere(document)), f"{name} declared in vain"
        else:
            assert not any(_uses(place, fields) for place in _everywhere(document)), f"{name} not declared"
    _validate_summaries(document.get("summaries", {}))
    if kind == "collection" and _uri("processing/v1.2.0") in declared:
        roles = [r for p in document["providers"] for r in p.get("roles", ())]
        assert {"producer", "processor"} & set(roles)


def _places(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects that an extension's fields may stand in."""
    assets = [*document.get("assets", {}).values(), *document.get("item_assets", {}).values()]
    return [document.get("properties", {}), *assets, *document.get("providers", ())]


def _everywhere(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [*_places(document), document.get("summaries", {})]


def _uses(place: dict[str, Any], fields: dict[str, Any]) -> bool:
    return any(key.startswith(f"{_prefix(fields)}:") for key in place)


def _validate_summaries(summaries: dict[str, Any]) -> None:
    fields = {key: rule for rules in RULES.values() for key, rule in rules.items()}
    for key, value in summaries.items():
        if key in fields:
            rule = {"type": "array", "items": fields[key]} if key in _ONE_OF_MANY else fields[key]
            Draft7Validator(rule).validate(value)

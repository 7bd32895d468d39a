"""Class schemes: what codes mean and back, and the level above."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError

CROPS = ClassScheme(
    classes=(
        LandClass(value=1, name="wheat", colour="#aa0000", parent="cereals", codes=(101, "W")),
        LandClass(value=2, name="maize", colour="#00aa00", parent="cereals", codes=(102,)),
        LandClass(value=3, name="cereals", colour="#0000aa", parent="crops"),
        LandClass(value=4, name="forest", colour="#003300", codes=(1,)),
    )
)


def test_every_code_finds_its_class_and_comes_back() -> None:
    lookup = CROPS.lookup()
    for c in CROPS.classes:
        for code in CROPS.codes_of(c.value):
            assert lookup[str(code)] == c.value
    assert CROPS.codes_of(1) == (101, "W")
    assert CROPS.codes_of(3) == ("cereals",)
    with pytest.raises(InputError, match="no class"):
        CROPS.codes_of(9)


def test_a_name_wins_over_a_code_and_a_code_over_a_value() -> None:
    assert CROPS.lookup()["1"] == 4  # forest's code, not wheat's value
    named = ClassScheme(
        classes=(
            LandClass(value=5, name="7", colour="#000000"),
            LandClass(value=6, name="b", colour="#000000", codes=(7,)),
        )
    )
    assert named.lookup()["7"] == 5


def test_classes_go_up_one_level_at_a_time() -> None:
    once, table = CROPS.broader()
    assert (once.names, table) == (("cereals", "forest"), {1: 3, 2: 3, 3: 3, 4: 4})
    assert once.lookup()["W"] == once.lookup()["102"] == once.lookup()["maize"] == 3
    twice, again = once.broader()
    assert (twice.names, again) == (("crops", "forest"), {3: 3, 4: 4})
    assert twice.lookup()["wheat"] == 3
    assert twice.broader() == (twice, {3: 3, 4: 4})


@given(st.lists(st.sampled_from(["x", "y", "z", None]), min_size=1, max_size=12))
def test_every_class_has_one_broader_class(parents: list[str | None]) -> None:
    made = ClassScheme.from_names([f"c{i}" for i in range(len(parents))])
    fine = ClassScheme(
        classes=tuple(c.model_copy(update={"parent": p}) for c, p in zip(made.classes, parents, strict=True))
    )
    coarse, table = fine.broader()
    assert set(table) == set(fine.values)
    assert set(table.values()) == set(coarse.values)
    assert len(coarse.classes) == len({p or c.name for c, p in zip(fine.classes, parents, strict=True)})
    # Labels remapped through the table are what the broader scheme reads from the finer one's names.
    remap = np.zeros(256, np.uint8)
    remap[list(table)] = list(table.values())
    assert all(remap[c.value] == coarse.lookup()[c.name] for c in fine.classes)

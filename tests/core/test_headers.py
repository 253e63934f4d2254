"""Headers: types, ranges and missing fields, each told in a sentence that names the field."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from scorda.core.headers import check_arguments, check_fields, parsed

FIELDS = {
    "width": int,
    "dt": float,
    "limit": float | None,
    "kind": Literal["a", "b"],
    "names": list[str],
    "pair": tuple[int, float],
    "table": dict[str, list[float]],
    "flag": bool,
    "free": Any,
}
GOOD = {
    "width": 3, "dt": 1, "limit": None, "kind": "a", "names": ["x"], "pair": [1, 2.5],
    "table": {"u": [1.0, 2]}, "flag": True, "free": [{}],
}  # fmt: skip


def test_what_fits_passes():
    check_fields(GOOD, FIELDS, "f")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", "3"), ("width", True), ("width", 3.0), ("width", 0), ("width", -1),
        ("width", 10**6), ("width", 10**300), ("width", None), ("width", [3]), ("width", {}),
        ("dt", "1"), ("dt", 0.0), ("dt", -1.0), ("dt", float("nan")), ("dt", float("inf")),
        ("dt", 10**400), ("dt", False), ("limit", "none"), ("limit", True), ("limit", 1e301),
        ("kind", "c"), ("kind", 1), ("kind", None), ("kind", ["a"]), ("names", "x"),
        ("names", [1]), ("names", {"x": 1}), ("pair", [1]), ("pair", [1, 2, 3]),
        ("pair", [1.5, 1.0]), ("table", []), ("table", {"u": 1.0}), ("table", {"u": ["a"]}),
        ("flag", 1), ("flag", None),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^f has {name} = .* belongs") as found:
        check_fields(GOOD | {name: value}, FIELDS, "f")
    assert len(str(found.value)) < 250 and "\n" not in str(found.value)


def test_absent_and_unknown_fields_are_named():
    with pytest.raises(ValueError, match="f lacks width"):
        check_fields({k: v for k, v in GOOD.items() if k != "width"}, FIELDS, "f")
    check_fields({k: v for k, v in GOOD.items() if k != "width"}, FIELDS, "f", ["width"])
    with pytest.raises(ValueError, match="f has unknown fields, more"):
        check_fields(GOOD | {"more": 1}, FIELDS, "f")
    check_fields(GOOD | {"more": 1}, FIELDS, "f", others=True)
    for content in ([], None, "text", 3, [GOOD]):
        with pytest.raises(ValueError, match="where an object with the fields"):
            check_fields(content, FIELDS, "f")


@dataclass
class Inner:
    width: int = 2


@dataclass
class Outer:
    inner: Inner
    dt: float = 1.0


def test_arguments_of_a_class_are_checked_with_those_of_its_parts():
    classes = {"Inner": Inner}
    check_arguments({"name": "Outer", "inner": {"name": "Inner"}}, Outer, "f", classes)
    with pytest.raises(ValueError, match="f lacks inner"):
        check_arguments({"name": "Outer"}, Outer, "f", classes)
    with pytest.raises(ValueError, match=r"f\.inner has width = 'a', where a whole number"):
        wrong = {"name": "Inner", "width": "a"}
        check_arguments({"name": "Outer", "inner": wrong}, Outer, "f", classes)
    with pytest.raises(ValueError, match="f has inner = 3, where an object"):
        check_arguments({"inner": 3}, Outer, "f", classes)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 10**5, '{"a":' * 10**5, "nope", "1" * 10**5, b"\xff\xfe", "\ud800"],
    ids=range(8),
)
def test_json_that_is_none_is_told(text):
    with pytest.raises(ValueError, match="f is not readable as JSON"):
        parsed(text, "f")
    assert parsed(json.dumps(GOOD), "f") == GOOD | {"pair": [1, 2.5]}

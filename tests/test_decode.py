"""JSON from storage as values of known types: what is read, and the place that is named where it does not fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from orchestrator.decode import MAX_DEPTH, Count, DecodeError, Rule, decode, parse
from orchestrator.errors import ConfigError

Half = Annotated[float, Rule("0.5", lambda number: number == 0.5)]


@dataclass(frozen=True)
class Leaf:
    count: Count
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Tree:
    name: str
    rates: tuple[float, ...]
    leaves: dict[str, Leaf]
    pair: tuple[str, int | None] = ("", None)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ConfigError("name must be another one")


WHOLE = {"name": "t", "rates": [1, 0.5], "leaves": {"x": {"count": 3, "kind": "b"}}, "pair": ["p", 2], "about": {}}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_an_object_becomes_its_dataclass() -> None:
    tree = decode(Tree, WHOLE)
    assert tree == Tree("t", (1, 0.5), {"x": Leaf(3, "b")}, ("p", 2), {})
    assert decode(Tree, {"name": "t", "rates": [], "leaves": {}}) == Tree("t", (), {})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (str, "a"),
        (int, -(2**63) + 1),
        (Count, 0),
        (float, 3),
        (float, -1e99),
        (Half, 0.5),
        (bool, True),
        (str | None, None),
        (str | float | None, 0.5),
        (list[list[int]], [[1], []]),
        (dict[str, float], {"a": 1.5}),
        (dict[Literal["a"], int], {"a": 1}),
        (Any, {"a": [1, "b", None, True, 0.5]}),
        (Any, nested(MAX_DEPTH)),
    ],
)
def test_a_value_of_its_type_is_read(kind: Any, value: Any) -> None:
    assert decode(kind, value) == value


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (str, 1, "it must be a text, got 1"),
        (str, None, "it must be a text, got None"),
        (int, True, "it must be a whole number, got True"),
        (int, 1.0, "it must be a whole number, got 1.0"),
        (int, 2**63, "it must be a whole number, got 9223372036854775808"),
        (Count, -1, "it must be a whole number of 0 or more, got -1"),
        (Count, False, "it must be a whole number, got False"),
        (float, True, "it must be a number below 1e+100, got True"),
        (float, "1", "it must be a number below 1e+100, got '1'"),
        (float, math.nan, "it must be a number below 1e+100, got nan"),
        (float, -math.inf, "it must be a number below 1e+100, got -inf"),
        (float, 1e100, "it must be a number below 1e+100, got 1e+100"),
        (float, 10**400, "it must be a number below 1e+100, got 1000"),
        (Half, 0.6, "it must be 0.5, got 0.6"),
        (bool, 0, "it must be true or false, got 0"),
        (Literal["a", "b"], "c", "it must be 'a' or 'b', got 'c'"),
        (Literal[1], True, "it must be 1, got True"),
        (str | None, 1, "it must be a text, got 1"),
        (list[int], "12", "it must be a list, got '12'"),
        (list[int], [1, "2"], "[1] must be a whole number, got '2'"),
        (tuple[int, str], [1], "it must be a list of 2, got [1]"),
        (tuple[int, str], [1, 2], "[1] must be a text, got 2"),
        (dict[str, int], [], "it must be an object, got []"),
        (dict[str, list[int]], {"a": [1], "b": [1, None]}, "['b'][1] must be a whole number, got None"),
        (dict[Literal["a"], int], {"b": 1}, "['b'] must be 'a', got 'b'"),
        (Any, nested(MAX_DEPTH + 1), f"it must be nested at most {MAX_DEPTH} deep"),
        (Any, {"a": [math.nan]}, "it must be a number below 1e+100, got nan"),
        (Leaf, [1], "it must be an object, got [1]"),
        (Leaf, {}, "count is missing"),
        (Leaf, {"count": 1, "size": 2}, "it must have no field 'size'"),
        (Tree, {**WHOLE, "leaves": {"x": {"count": -1}}}, "leaves['x'].count must be a whole number of 0 or more"),
        (Tree, {**WHOLE, "pair": ["p", "q"]}, "pair[1] must be a whole number, got 'q'"),
        (Tree, {**WHOLE, "name": "forbidden"}, "it cannot be used: name must be another one"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(kind: Any, value: Any, problem: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(kind, value)
    assert str(caught.value).startswith(problem)
    assert len(str(caught.value)) < 300


def test_only_the_outermost_object_may_have_more_fields() -> None:
    assert decode(Tree, {**WHOLE, "new": 1}, more_fields=True) == decode(Tree, WHOLE)
    with pytest.raises(DecodeError, match=r"^leaves\['x'\] must have no field 'new'$"):
        decode(Tree, {**WHOLE, "leaves": {"x": {"count": 1, "new": 1}}}, more_fields=True)
    with pytest.raises(DecodeError, match="must be an object"):
        decode(Tree, [1], more_fields=True)


def test_what_was_written_comes_back() -> None:
    tree = Tree("t", (0.1, 2.0), {"x": Leaf(1)}, ("", None), {"a": [None]})
    written = parse(b'{"name": "t", "rates": [0.1, 2.0], "leaves": {"x": {"count": 1}}, "about": {"a": [null]}}')
    assert decode(Tree, written) == tree
    assert dataclasses.asdict(tree)["leaves"] == {"x": {"count": 1, "kind": "a"}}


@pytest.mark.parametrize("text", ["[" * 200_000, "{", "", b"\xff", "9" * 10_000])
def test_what_is_no_json_is_one_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)

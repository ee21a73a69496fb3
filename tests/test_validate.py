"""Checks of one value: what each accepts, and the sentence that names field, rule, value and way out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ConfigError, DataError
from orchestrator.validate import (
    dataclass_with,
    finite,
    flag,
    fraction,
    json_options,
    one_of,
    text,
    texts,
    tuple_of,
    whole,
)

Check = Callable[[str, Any], Any]


@dataclasses.dataclass(frozen=True)
class Halving:
    steps: int = 1

    def rates(self) -> None: ...


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (whole, [-1, 0, 10**30]),
        (partial(whole, minimum=1), [1, 2]),
        (partial(whole, minimum=1, maximum=3), [1, 3]),
        (finite, [-1, 0.5, 1e300, np.float64(0.5)]),
        (partial(finite, above=0), [1e-300, 1]),
        (partial(finite, minimum=0, maximum=2.5), [0, 2.5]),
        (fraction, [1e-9, 0.999]),
        (partial(fraction, zero=True), [0, 0.0, 0.5]),
        (partial(fraction, one=True), [1, 1.0, 0.5]),
        (flag, [True, False]),
        (text, ["a"]),
        (partial(one_of, choices=("a", 1)), ["a", 1]),
        (partial(dataclass_with, methods=["rates"]), [Halving()]),
        (json_options, [{}, {"a": [1, None, {"b": 0.5}]}]),
    ],
)
def test_what_is_accepted_is_returned_as_it_is(check: Check, values: list[Any]) -> None:
    for value in values:
        assert check("field", value) is value


@pytest.mark.parametrize(
    ("check", "values", "rule"),
    [
        (whole, [True, False, 1.0, math.nan, "1", None, np.int64(1)], "a whole number"),
        (partial(whole, minimum=1), [0, -1, True], "a whole number of 1 or more"),
        (partial(whole, maximum=3), [4, False], "a whole number of 3 or less"),
        (partial(whole, minimum=1, maximum=3), [0, 4, True, 2.0], "a whole number from 1 to 3"),
        (finite, [True, math.nan, math.inf, -math.inf, "1", None, 1j], "a finite number"),
        (partial(finite, above=0), [0, -0.0, True, math.inf], "a finite number above 0"),
        (partial(finite, minimum=0), [-1e-9, False, math.nan], "a finite number of 0 or more"),
        (partial(finite, minimum=0, maximum=2.5), [2.6, True], "a finite number from 0 to 2.5"),
        (partial(finite, above=0, maximum=2.5), [0, 3], "a finite number above 0 and of 2.5 or less"),
        (fraction, [0, 1, 0.0, 1.0, -0.5, 1.5, True, False, math.nan, math.inf, "0.5", None], "a number in (0, 1)"),
        (partial(fraction, zero=True), [1, False, -1], "a number in [0, 1)"),
        (partial(fraction, one=True), [0, True, 2], "a number in (0, 1]"),
        (partial(fraction, zero=True, one=True), [-0.1, 1.1, True], "a number in [0, 1]"),
        (flag, [0, 1, "yes", None], "True or False"),
        (text, ["", 3, None, b"a"], "a text that is not empty"),
        (partial(one_of, choices=("a", 1)), ["b", True, 1.0, None], "one of a, 1"),
        (partial(tuple_of, check=whole), [1, None, {1}, "ab"], "a tuple"),
        (partial(tuple_of, check=whole, length=2), [(1,), (1, 2, 3)], "a tuple of 2"),
        (partial(dataclass_with, methods=["rates"]), [3, Halving], "a dataclass with rates()"),
        (partial(dataclass_with, methods=["rates", "other"]), [Halving()], "a dataclass with rates() and other()"),
    ],
)
def test_what_is_refused_is_named(check: Check, values: list[Any], rule: str) -> None:
    for value in values:
        with pytest.raises(ConfigError) as caught:
            check("field", value)
        assert str(caught.value) == f"field must be {rule}, got {value!r}"


def test_an_item_is_named_by_its_place() -> None:
    assert tuple_of("rates", [0.5, 1], finite) == (0.5, 1)
    with pytest.raises(ConfigError, match=r"^rates\[1\] must be a finite number, got nan$"):
        tuple_of("rates", (0.5, math.nan), finite)


def test_one_text_is_not_a_list_of_its_letters() -> None:
    assert texts("names", ["a", "b"]) == ("a", "b")
    with pytest.raises(ConfigError, match=r"^names must be a tuple, got 'ab': write \['ab'\]$"):
        texts("names", "ab")


@pytest.mark.parametrize("value", [{"x": math.nan}, {"x": print}, {1: 2}, 5])
def test_options_must_be_what_json_can_hold(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^options must hold only JSON values by name \(.+\)$"):
        json_options("options", value)


def test_the_caller_chooses_the_error_and_the_way_out() -> None:
    with pytest.raises(DataError, match=r"^shards must be a whole number of 1 or more, got 0: leave it out$"):
        whole("shards", 0, minimum=1, error=DataError, way_out="leave it out")


@pytest.mark.parametrize("value", [10**5000, "9" * 10_000, Unshowable()], ids=["digits", "text", "repr"])
def test_a_sentence_stays_short_whatever_the_value(value: Any) -> None:
    for check in (finite, partial(whole, maximum=1)):
        with pytest.raises(ConfigError, match=r"^field must be ") as caught:
            check("field", value)
        assert len(str(caught.value)) < 300

"""Paths against their closed forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.pruning import Explicit, Geometric, OneShot, Path


@pytest.mark.parametrize(
    ("path", "densities"),
    [
        (Geometric(), [0.8, 0.64, 0.512, 0.4096, 0.32768, 0.262144, 0.2097152, 0.16777216]),
        (Geometric(remove=0.5, rounds=3), [0.5, 0.25, 0.125]),
        (OneShot(0.1), [0.1]),
        (Explicit([0.5, 0.3, 0.05]), [0.5, 0.3, 0.05]),
        (Explicit((0.9,)), [0.9]),
    ],
)
def test_closed_forms(path: Path, densities: list[float]) -> None:
    assert path.densities() == pytest.approx(densities, rel=1e-12)
    assert isinstance(path.densities(), tuple)


def test_paths_are_values() -> None:
    assert Explicit([0.5, 0.25]) == Explicit((0.5, 0.25))
    assert hash(Explicit([0.5])) == hash(Explicit((0.5,)))
    assert Geometric(remove=0.5, rounds=1) != Geometric(remove=0.5, rounds=2)


@pytest.mark.parametrize(
    ("density", "remove", "rounds"),
    [(0.05, 0.2, 14), (0.512, 0.2, 3), (0.511, 0.2, 4), (0.8, 0.2, 1), (0.99, 0.2, 1), (0.25, 0.5, 2), (1e-3, 0.9, 3)],
)
def test_down_to_takes_the_fewest_rounds(density: float, remove: float, rounds: int) -> None:
    assert Geometric.down_to(density, remove) == Geometric(remove, rounds)


@given(st.floats(1e-4, 0.999), st.floats(0.01, 0.99))
def test_down_to_ends_at_or_below_but_not_a_round_too_late(density: float, remove: float) -> None:
    densities = Geometric.down_to(density, remove).densities()
    assert densities[-1] <= density * (1 + 1e-6)
    assert len(densities) == 1 or densities[-2] > density * (1 - 1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Geometric(remove=1.0), r"remove must be in \(0, 1\), got 1.0"),
        (lambda: Geometric(remove=0), r"remove must be in \(0, 1\), got 0"),
        (lambda: Geometric(remove="20%"), r"remove must be in \(0, 1\), got '20%'"),  # type: ignore[arg-type]
        (lambda: Geometric(rounds=0), "rounds must be a whole number, 1 or more, got 0"),
        (lambda: Geometric(rounds=2.5), "rounds must be a whole number, 1 or more, got 2.5"),  # type: ignore[arg-type]
        (lambda: Geometric(remove=0.99, rounds=500), "stay above 0, got .* then 0.0"),
        (lambda: Geometric(remove=1e-17, rounds=2), r"densities must .*got 1.0"),
        (lambda: Geometric.down_to(0.0), r"density must be in \(0, 1\), got 0.0"),
        (lambda: OneShot(1.0), r"density must be in \(0, 1\), got 1.0"),
        (lambda: OneShot(float("nan")), r"density must be in \(0, 1\), got nan"),
        (lambda: Explicit([]), r"at least one number, got \[\]"),
        (lambda: Explicit(0.5), "at least one number, got 0.5"),  # type: ignore[arg-type]
        (lambda: Explicit([0.5, 0.5]), "densities must decrease .*got 0.5 then 0.5"),
        (lambda: Explicit([0.5, 0.6]), "densities must decrease .*got 0.5 then 0.6"),
        (lambda: Explicit([1.0, 0.5]), r"density must be in \(0, 1\), got 1.0"),
    ],
)
def test_what_is_refused(make: type, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()

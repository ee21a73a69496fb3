"""Paths against their closed forms."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.pruning import Cubic, Explicit, Geometric, OneShot, Path


@pytest.mark.parametrize(
    ("path", "densities"),
    [
        (Geometric(), [0.8, 0.64, 0.512, 0.4096, 0.32768, 0.262144, 0.2097152, 0.16777216]),
        (Geometric(remove=0.5, rounds=3), [0.5, 0.25, 0.125]),
        (OneShot(0.1), [0.1]),
        (Explicit([0.5, 0.3, 0.05]), [0.5, 0.3, 0.05]),
        (Explicit((0.9,)), [0.9]),
        (Cubic(0.1, rounds=1), [0.1]),
        (Cubic(0.1, rounds=2), [0.2125, 0.1]),  # 0.1 + 0.9 / 8
        (Cubic(0.2, rounds=4), [0.5375, 0.3, 0.2125, 0.2]),
    ],
)
def test_closed_forms(path: Path, densities: list[float]) -> None:
    assert path.densities() == pytest.approx(densities, rel=1e-12)
    assert isinstance(path.densities(), tuple)


def test_paths_are_values() -> None:
    assert Explicit([0.5, 0.25]) == Explicit((0.5, 0.25))
    assert hash(Explicit([0.5])) == hash(Explicit((0.5,)))
    assert Geometric(remove=0.5, rounds=1) != Geometric(remove=0.5, rounds=2)
    assert Cubic(0.5, rounds=3) != Cubic(0.4, rounds=3)


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


@given(st.floats(1e-4, 0.999), st.integers(1, 50))
def test_cubic_is_the_gradual_schedule_of_zhu_and_gupta(density: float, rounds: int) -> None:
    """s_t = s_f + (s_i - s_f) (1 - t/n)^3 with s_i = 0: ends exactly, removes less every round, never nothing."""
    densities = Cubic(density, rounds).densities()
    final = 1 - density
    sparsities = [final + (0 - final) * (1 - t / rounds) ** 3 for t in range(1, rounds + 1)]
    assert [1 - d for d in densities] == pytest.approx(sparsities, abs=1e-12)
    assert densities[-1] == density
    removed = [before - after for before, after in itertools.pairwise((1.0, *densities))]
    assert all(before > after > 0 for before, after in itertools.pairwise(removed))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Geometric(remove=1.0), r"remove must be a number in \(0, 1\), got 1.0"),
        (lambda: Geometric(remove=0), r"remove must be a number in \(0, 1\), got 0"),
        (lambda: Geometric(remove="20%"), r"remove must be a number in \(0, 1\), got '20%'"),  # type: ignore[arg-type]
        (lambda: Geometric(rounds=0), "rounds must be a whole number of 1 or more, got 0"),
        (lambda: Geometric(rounds=2.5), "rounds must be a whole number of 1 or more, got 2.5"),  # type: ignore[arg-type]
        (lambda: Geometric(remove=0.99, rounds=500), "stay above 0, got .* then 0.0"),
        (lambda: Geometric(remove=True), r"remove must be a number in \(0, 1\), got True"),
        (lambda: Geometric(rounds=True), "rounds must be a whole number of 1 or more, got True"),
        (lambda: Geometric(remove=1e-17, rounds=1), r"densities must decrease .*got 1.0 then 1.0"),
        (lambda: Geometric(remove=1e-17, rounds=2), r"densities must decrease .*got 1.0 then 1.0"),
        (lambda: Geometric.down_to(0.5, remove=1.0), r"remove must be a number in \(0, 1\), got 1.0"),
        (lambda: Cubic(0.0), r"density must be a number in \(0, 1\), got 0.0"),
        (lambda: Cubic(1.0), r"density must be a number in \(0, 1\), got 1.0"),
        (lambda: Cubic("10%"), r"density must be a number in \(0, 1\), got '10%'"),  # type: ignore[arg-type]
        (lambda: Cubic(0.5, rounds=0), "rounds must be a whole number of 1 or more, got 0"),
        (lambda: Cubic(0.5, rounds=2.5), "rounds must be a whole number of 1 or more, got 2.5"),  # type: ignore[arg-type]
        (lambda: Cubic(0.5, rounds=300_000), "densities must decrease .*got 0.5.* then 0.5"),
        (lambda: Geometric.down_to(0.0), r"density must be a number in \(0, 1\), got 0.0"),
        (lambda: OneShot(1.0), r"density must be a number in \(0, 1\), got 1.0"),
        (lambda: OneShot(float("nan")), r"density must be a number in \(0, 1\), got nan"),
        (lambda: Explicit([]), "Explicit.values must hold at least one density, got none"),
        (lambda: Explicit(0.5), "Explicit.values must be a tuple, got 0.5"),  # type: ignore[arg-type]
        (lambda: Explicit([0.5, 0.5]), "densities must decrease .*got 0.5 then 0.5"),
        (lambda: Explicit([0.5, 0.6]), "densities must decrease .*got 0.5 then 0.6"),
        (lambda: Explicit([0.5, "0.2"]), r"Explicit.values\[1\] must be a number in \(0, 1\), got '0.2'"),  # type: ignore[list-item]
        (lambda: Explicit([1.0, 0.5]), r"Explicit.values\[0\] must be a number in \(0, 1\), got 1.0"),
    ],
)
def test_what_is_refused(make: type, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()

"""A search never exceeds its budget, and leaves no block of it unused."""

from __future__ import annotations

import numpy as np
import pytest
from channel_networks import traced

from orchestrator.amc.bounds import Budget, Decision
from orchestrator.amc.decisions import channel_budget, weight_budget
from orchestrator.errors import ConfigError


class ByHand:
    """A chain of three layers with one pixel each: 1 -> a -> b -> c -> 2 channels."""

    def __call__(self, sizes):
        a, b, c = sizes
        return a + a * b + b * c + 2 * c

    def parts(self, sizes):
        return {}


def by_hand(density: float, step: int = 2) -> Budget:
    return Budget(tuple(Decision(name, 8, step) for name in "abc"), ByHand(), density, 152)


def is_full(budget: Budget, sizes: tuple[int, ...]) -> bool:
    """Whether no decision can take one block more."""
    for place, decision in enumerate(budget.decisions):
        grown = decision.size(-(-sizes[place] // decision.step) + 1)
        if grown > sizes[place] and budget.allows([*sizes[:place], grown, *sizes[place + 1 :]]):
            return False
    return True


def is_allowed(budget: Budget, sizes: tuple[int, ...]) -> bool:
    return budget.allows(sizes) and all(
        size == decision.maximum or (size % decision.step == 0 and decision.step <= size < decision.maximum)
        for size, decision in zip(sizes, budget.decisions, strict=True)
    )


# The cost is a + ab + bc + 2c, at most 76 (half of 152), in blocks of 2 channels.
@pytest.mark.parametrize(
    ("chosen", "blocks"),
    [
        # a = 8 with b = c = 2: 8 + 16 + 4 + 4 = 32. a = 2 with b = c = 8: 2 + 16 + 64 + 16 = 98.
        ((), (1, 4)),
        # a = 8: b = 6 with c = 2: 8 + 48 + 12 + 4 = 72, b = 8: 92. With c = 8: b = 2: 56, b = 4: 88.
        ((8,), (1, 3)),
        # a = 2: b = 8 with c = 2: 2 + 16 + 16 + 4 = 38. With c = 8: b = 4: 2 + 8 + 32 + 16 = 58, b = 6: 78.
        ((2,), (2, 4)),
        # a = 8, b = 4: 8 + 32 + 4c + 2c <= 76: c = 6 exactly.
        ((8, 4), (3, 3)),
        # a = 2, b = 8: 2 + 16 + 8c + 2c <= 76: c = 4 gives 58, c = 6 gives 78.
        ((2, 8), (2, 2)),
    ],
)
def test_bounds_of_a_chain_are_those_derived_by_hand(chosen, blocks):
    assert by_hand(0.5).bounds(chosen) == blocks


def test_what_rounding_leaves_is_filled_up():
    """The bounds leave c at 4 (58 of 76); then a can grow to 4, for 4 + 32 + 32 + 8 = 76."""
    assert by_hand(0.5).fit([0.25, 1, 1]) == (4, 8, 4)


@pytest.mark.parametrize("network", ["chain", "residual", "concatenating"])
@pytest.mark.parametrize("coordinates", ["fit", "place"])
def test_random_actions_use_the_budget_and_never_exceed_it(network, coordinates):
    """10,000 sequences in all."""
    _, graph, prunable = traced(network)
    draw = np.random.default_rng(0)
    for unit, density, round_to in (("macs", 0.3, 4), ("parameters", 0.5, 3), ("weights", 0.7, 8)):
        budget = channel_budget(graph, prunable, density, unit=unit, round_to=round_to)
        for actions in draw.random((556, len(budget.decisions))).tolist():
            sizes = getattr(budget, coordinates)(actions)
            assert is_allowed(budget, sizes)
            assert is_full(budget, sizes)


@pytest.mark.parametrize("unit", ["weights", "macs", "parameters"])
def test_random_densities_use_the_budget_and_never_exceed_it(unit):
    module, graph, sizes = traced("residual")
    uses = {layer.weight: layer.positions for layer in graph.layers.values() if layer.weight}
    parameters = sum(parameter.numel() for parameter in module.parameters())
    budget = weight_budget(sizes, 0.1, unit=unit, sizes=sizes, uses=uses, macs=graph.macs, parameters=parameters)
    for actions in np.random.default_rng(0).random((100, len(sizes))).tolist():
        kept = budget.fit(actions)
        assert is_allowed(budget, kept)
        assert is_full(budget, kept)
        if unit == "weights":
            assert sum(kept) == int(0.1 * sum(sizes.values()))


@pytest.mark.parametrize("network", ["chain", "residual", "concatenating", "depthwise"])
def test_the_smallest_density_works_and_one_below_it_is_refused(network):
    _, graph, prunable = traced(network)
    whole = channel_budget(graph, prunable, 1.0, round_to=4)
    minimum = tuple(decision.minimum for decision in whole.decisions)
    least = whole.cost(minimum) / whole.dense
    assert channel_budget(graph, prunable, least, round_to=4).fit([1.0] * len(minimum)) == minimum
    with pytest.raises(ConfigError, match="cannot be reached, because every layer keeps") as refused:
        channel_budget(graph, prunable, 0.99 * least, round_to=4)
    named = float(str(refused.value).rsplit(" ", 1)[1])
    assert least <= named <= 1.001 * least
    channel_budget(graph, prunable, named, round_to=4)


def test_the_whole_budget_keeps_all():
    budget = by_hand(1.0)
    assert budget.fit([0.0, 0.5, 0.1]) == budget.place([0, 0, 0]) == (8, 8, 8)


def test_sizes_are_multiples_of_a_block_or_all_there_is():
    decision = Decision("layer", 20, 8)
    assert [decision.size(blocks) for blocks in range(1, decision.blocks + 1)] == [8, 16, 20]
    assert [decision.nearest(wanted) for wanted in (0, 0.59, 0.61, 0.9, 1)] == [1, 1, 2, 2, 2]
    assert [decision.below(wanted) for wanted in (0, 0.79, 0.8, 0.99, 1)] == [1, 1, 2, 2, 3]


def test_positions_are_the_inverse_of_placing():
    """But for blocks that filling up added."""
    budget, draw = by_hand(0.5, step=1), np.random.default_rng(0)
    for actions in draw.random((50, 3)).tolist():
        sizes = budget.place(actions)
        assert budget.place(budget.positions(sizes)) == sizes


def test_the_same_fraction_for_all_is_filled_up_evenly():
    """4, 4, 4 costs 44 of 76 and 6, 6, 6 costs 90; then a and b take a block each: 6 + 36 + 24 + 8 = 74."""
    assert by_hand(0.5).widest(lambda share: [share] * 3) == (6, 6, 4)


def test_filling_up_large_layers_is_quick():
    """Blocks are added together where they fit, not one by one."""
    calls = 0

    class Large(ByHand):
        def __call__(self, sizes):
            nonlocal calls
            calls += 1
            return sum(sizes)

    budget = Budget(tuple(Decision(name, 10**6) for name in "abc"), Large(), 0.5, 3 * 10**6)
    assert sum(budget.fill([1, 10**5, 10], [1, 1, 1])) == 1_500_000
    assert calls < 100

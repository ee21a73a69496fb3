"""Build the table of targets: a row for each of their files, a column for each network, a sentence on each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from orchestrator.export.targets.side_by_side import Cell
from orchestrator.formatting import milliseconds, plain, size
from orchestrator.record import Record
from orchestrator.report.summary import Quantity

NOISE = 1.05  # times in one process differ by as much from run to run
_TRAVELS = "download"  # the target that no time belongs to


@dataclass(frozen=True)
class _Choice:
    """Hold a file, what its target asks of it, and whether it is as good as the dense network."""

    good: bool
    cost: float
    cell: Cell


@dataclass(frozen=True)
class TargetTable:
    """Hold the cells of several targets, and the rounds of their networks by name, the dense one first."""

    cells: Sequence[Cell]
    networks: Mapping[str, Record]

    @cached_property
    def quantity(self) -> Quantity:
        """Return the objective of the networks, in words."""
        return Quantity(self.dense.objective)

    @property
    def dense(self) -> Record:
        return next(iter(self.networks.values()))

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(cell.target for cell in self.cells))

    @cached_property
    def rows(self) -> list[tuple[str, str]]:
        """Return (target, file) of each row; the file is "" where a target made none."""
        found = []
        for target in self.targets:
            files = dict.fromkeys(cell.file for cell in self.cells if cell.target == target)
            found += [(target, file) for file in files if file] or [(target, "")]
        return found

    def cell(self, target: str, file: str, network: str) -> Cell | None:
        """Return what a file of a network is on a target, or why the target, or this network there, has none."""
        known = {(cell.file, cell.network): cell for cell in self.cells if cell.target == target}
        return known.get((file, network)) or known.get(("", network)) or known.get(("", ""))

    def lines(self, cell: Cell | None) -> list[str]:
        """Return the text of a cell, line by line."""
        if cell is None:
            return ["no such file"]
        if cell.reason:
            return [cell.short or "left out"]
        gain = self.times_dense(cell) if cell.network != self._dense_name else None
        times = "" if gain is None else f" ({gain:.2f}x)"
        travels = cell.target == _TRAVELS
        found = [f"{size(cell.bytes)}{times if travels else ''}"] if cell.bytes is not None else []
        if cell.cycles is not None:
            found.append(f"{cell.cycles:,.0f} cycles{times}")
        elif cell.seconds is not None and not travels:
            found.append(f"{milliseconds(cell.seconds)}{times}")
        found += [self.quantity.text(cell.value)] if cell.value is not None else []
        return [*found, cell.short] if cell.short and times else found

    def measured_by(self, target: str, file: str) -> str:
        """Return what measured or estimated a row."""
        mine = [cell for cell in self.cells if (cell.target, cell.file) == (target, file) and not cell.reason]
        return "; ".join(dict.fromkeys(cell.measured_by for cell in mine))

    def cost(self, cell: Cell) -> float | None:
        """Return what a target asks of a network: cycles, else seconds, else bytes; None if nothing is known."""
        if cell.target == _TRAVELS:
            return cell.bytes
        return cell.cycles if cell.cycles is not None else cell.seconds

    def times_dense(self, cell: Cell) -> float | None:
        """Return how many times cheaper a file is than the dense network's in its row; None where a cost is unknown."""
        dense = self.cell(cell.target, cell.file, self._dense_name)
        mine, theirs = self.cost(cell), self.cost(dense) if dense else None
        return theirs / mine if theirs and mine else None

    def verdict(self, target: str) -> str:
        """Return which network to take for a target, and why: a sentence for each chip or number of threads.

        Networks are chosen by validation data. A file must not lose more than they may in comparison with its own
        network. Gains are over the dense network's cheapest such file, so that rounding alone is no gain.
        """
        mine = self._measured(target)
        if not mine:
            reasons = dict.fromkeys(cell.reason for cell in self.cells if cell.target == target and cell.reason)
            return f"{target}: nothing was measured, because {'; '.join(reasons)}."
        locations = dict.fromkeys(location(cell) for cell in mine)
        return " ".join(self._choice(each, [cell for cell in mine if location(cell) == each]) for each in locations)

    def _choice(self, where: str, mine: Sequence[Cell]) -> str:
        files = self._cheapest(mine)
        dense, best = files.get(self._dense_name), next(iter(files.values()), None)
        if best is None or not best.good:
            return f"For {where} no file is as good as the dense network."
        if dense is None or not dense.good:
            why = "has no file that is as good as itself" if dense else "could not be had"
            return f"For {where} take {title(best.cell)}, because the dense network {why}."
        gains, smaller = _gains(dense, files), best.cell.target == _TRAVELS
        reference = title(dense.cell, "the dense network")
        if dense.cost / best.cost < NOISE:
            how = "smaller" if smaller else "faster"
            return f"For {where} take {reference}, because no other network that is as good is {how}.{gains}"
        how = f"{dense.cost / best.cost:.2f} times {'smaller than' if smaller else 'as fast as'} {reference}"
        value = f", at {self.quantity.text(best.cell.value)}" if best.cell.value is not None else ""
        return f"For {where} take {title(best.cell)}, because it is {how}{value}.{gains}"

    def _cheapest(self, mine: Sequence[Cell]) -> dict[str, _Choice]:
        """Return the cheapest file that is as good of each network, or else its cheapest; the best of all is first."""
        choices = [_Choice(self._keeps(cell), cost, cell) for cell in mine if (cost := self.cost(cell))]
        found: dict[str, _Choice] = {}
        for choice in sorted(choices, key=lambda each: (not each.good, each.cost)):
            found.setdefault(choice.cell.network, choice)
        return found

    @property
    def reasons(self) -> list[str]:
        """Return why cells could not be had: a sentence for each target and reason, with its networks."""
        found: dict[tuple[str, str], dict[str, None]] = {}
        for cell in self.cells:
            if cell.reason:
                found.setdefault((cell.target, cell.reason), {})[heading(cell.network)] = None
        lines = ((target, ", ".join(names), reason) for (target, reason), names in found.items())
        return [": ".join(part for part in parts if part) for parts in lines]

    @property
    def notes(self) -> list[str]:
        """Return what is worth knowing of the files: a sentence for each target and detail, with its networks."""
        found: dict[tuple[str, str, str], list[str]] = {}
        for cell in self.cells:
            if cell.detail:
                found.setdefault((cell.target, cell.file, cell.detail), []).append(heading(cell.network))
        return [f"{target} {file}, {', '.join(names)}: {detail}" for (target, file, detail), names in found.items()]

    @property
    def _dense_name(self) -> str:
        return next(iter(self.networks))

    def _measured(self, target: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.target == target and cell.reason is None]

    def _keeps(self, cell: Cell) -> bool:
        """Return whether the network is as good as the dense one, and the file as good as the network."""
        record = self.networks[cell.network]
        good = self.quantity.reaches_floor(record.val, self.dense.val)
        return good and (cell.value is None or self.quantity.reaches_floor(cell.value, record.test))


def heading(network: str) -> str:
    """Return the title of a network's column: 2-of-4, whose name is also that of files, is 2:4."""
    return plain(network.replace("-of-", ":"))


def location(cell: Cell) -> str:
    """Return where a file runs, within which costs are comparable: "vela on U85", "mnn on 2 threads", "torch"."""
    return f"{cell.target} on {cell.where}" if cell.where else cell.target


def title(cell: Cell, network: str | None = None) -> str:
    """Return the name of a network, or `network`, and its file, without the chip or the number of threads."""
    file = cell.file.removesuffix(cell.where).rstrip(", ")
    name = network or heading(cell.network)
    return f"{name} as {file}" if file else name


def _gains(dense: _Choice, files: Mapping[str, _Choice]) -> str:
    """Return how many times cheaper than the dense network's file each other network's is; "" without others."""
    others = [(name, file) for name, file in files.items() if file is not dense]
    texts = [
        f"{heading(name)} {dense.cost / file.cost:.2f}x{'' if file.good else ' (not as good)'}" for name, file in others
    ]
    return f" Gains: {', '.join(texts)}." if texts else ""


def cell_line(cell: Cell) -> str:
    """Return one line about a file that was just measured, or about what could not be had."""
    where = " ".join(part for part in (cell.target, heading(cell.network), cell.file) if part)
    if cell.reason:
        return plain(f"left out: {where}: {cell.reason}")
    parts = [size(cell.bytes)] if cell.bytes is not None else []
    parts += [f"{milliseconds(cell.seconds)} a sample"] if cell.seconds else []
    parts += [f"{cell.cycles:,.0f} cycles"] if cell.cycles is not None else []
    return plain(f"{where}: {', '.join(parts)}")

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
        """Return how many times cheaper than the dense network's first file a file is; None where a cost is unknown.

        Both are for the same chip or number of threads.
        """
        alike = (each for each in self.cells if location(each) == location(cell))
        dense = next((each for each in alike if each.network == self._dense_name), None)
        mine, theirs = self.cost(cell), self.cost(dense) if dense else None
        return theirs / mine if theirs and mine else None

    def verdict(self, target: str) -> str:
        """Return which network to take for a target, and why: a sentence for each chip or number of threads.

        Networks are chosen by validation data. A file must not lose more than they may in comparison with its own
        network.
        """
        mine = self._measured(target)
        if not mine:
            reasons = dict.fromkeys(cell.reason for cell in self.cells if cell.target == target and cell.reason)
            return f"{target}: nothing was measured, because {'; '.join(reasons)}."
        locations = dict.fromkeys(location(cell) for cell in mine)
        here = [[cell for cell in mine if location(cell) == each] for each in locations]
        return " ".join(f"{self._choice(cells)}{self._gains(cells)}" for cells in here)

    def _choice(self, mine: Sequence[Cell]) -> str:
        where, travels = location(mine[0]), mine[0].target == _TRAVELS
        known = [(cost, cell) for cell in mine if (cost := self.cost(cell)) is not None and self._keeps(cell)]
        if not known:
            return f"For {where} no file is as good as the dense network."
        _, best = min(known, key=lambda pair: pair[0])
        gain = self.times_dense(best)
        if gain is None:
            return f"For {where} take {title(best)}, because the dense network could not be had."
        if gain < NOISE:
            how = "smaller" if travels else "faster"
            return f"For {where} take the dense network, because no other one that is as good is {how}."
        how = "times smaller than" if travels else "times as fast as"
        value = f", at {self.quantity.text(best.value)}" if best.value is not None else ""
        return f"For {where} take {title(best)}, because it is {gain:.2f} {how} the dense network{value}."

    def _gains(self, mine: Sequence[Cell]) -> str:
        """Return how much each network gains by its cheapest file that is as good, or else by any; "" if unknown."""
        found: dict[str, tuple[bool, float]] = {}
        for cell in mine:
            gain = self.times_dense(cell)
            if gain is not None and cell.network != self._dense_name:
                found[cell.network] = max(found.get(cell.network, (False, 0.0)), (self._keeps(cell), gain))
        gains = [f"{heading(n)} {gain:.2f}x{'' if good else ' (not as good)'}" for n, (good, gain) in found.items()]
        return f" Gains: {', '.join(gains)}." if gains else ""

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


def title(cell: Cell) -> str:
    """Return the name of a network and its file, without the chip or the number of threads."""
    file = cell.file.removesuffix(cell.where).rstrip(", ")
    return f"{heading(cell.network)} as {file}" if file else heading(cell.network)


def cell_line(cell: Cell) -> str:
    """Return one line about a file that was just measured, or about what could not be had."""
    where = " ".join(part for part in (cell.target, heading(cell.network), cell.file) if part)
    if cell.reason:
        return plain(f"left out: {where}: {cell.reason}")
    parts = [size(cell.bytes)] if cell.bytes is not None else []
    parts += [f"{milliseconds(cell.seconds)} a sample"] if cell.seconds else []
    parts += [f"{cell.cycles:,.0f} cycles"] if cell.cycles is not None else []
    return plain(f"{where}: {', '.join(parts)}")

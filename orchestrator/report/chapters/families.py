"""Compare methods: masks, channels, AMC, Once-for-All, and the same networks trained alone; with pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median
from typing import Any

from orchestrator.export.proof import ExportedNetworks
from orchestrator.formatting import milliseconds, size
from orchestrator.record import Record
from orchestrator.report.chapters.search_verdict import RIVALS
from orchestrator.report.comparison import Comparison
from orchestrator.report.page import Section
from orchestrator.report.pictures.style import GREY, LINES, MARKERS, Picture, handle, new_figure
from orchestrator.report.summary import Quantity, options_of

FAMILIES = ("dense", "masks", "channels", "AMC", "Once-for-All", "trained alone", "rivals of AMC")
GAP = 0.5  # inches between two panels, for the names of their axes
MAX_TARGETS = 40


@dataclass(frozen=True)
class FamilyPoint:
    """Hold one network of a method.

    `macs` counts the multiply-accumulates of one sample; with masks they are the dense network's. `seconds` is the time
    for one sample of its fastest file, None if no file was timed.
    """

    family: str
    record: Record
    macs: int
    seconds: float | None

    @property
    def name(self) -> str:
        return f"{self.record.experiment}, round {self.record.round}, seed {self.record.seed}"

    @property
    def architecture(self) -> str:
        """Return the architecture of a space, as text; "None" for other networks."""
        return str({**options_of(self.record, "model_options"), **(self.record.channels or {})}.get("architecture"))


@dataclass(frozen=True)
class Costs:
    """Hold what a method costs in epochs: `first` before any network is wanted, and `each` for every one of them."""

    family: str
    first: int
    each: int

    def of(self, targets: int) -> int:
        """Return the total epochs of so many networks."""
        return self.first + self.each * targets


@dataclass(frozen=True)
class Families:
    """Hold the networks of one model and data set by the method that made them. There are two methods or more."""

    quantity: Quantity
    points: tuple[FamilyPoint, ...]
    costs: tuple[Costs, ...]

    @cached_property
    def sentences(self) -> list[str]:
        """Say which networks are small and which are fast, and for how many targets a supernet is cheaper."""
        dense = max((each.record for each in self.points if each.family == "dense"), key=self._gain)
        good = [each for each in self.points if self.quantity.reaches_floor(each.record.val, dense.val)]
        small, few = min(good, key=lambda each: each.record.model_bytes), min(good, key=lambda each: each.macs)
        found = [
            f"Compared are the networks that are as good as the dense one, within the tolerance. Smallest file: "
            f"{small.family}, {size(small.record.model_bytes)} ({small.name}). Fewest multiply-accumulates: "
            f"{few.family}, {few.macs:,} ({few.name})."
        ]
        if timed := [(each.seconds, each) for each in good if each.seconds is not None]:
            seconds, fast = min(timed, key=lambda pair: pair[0])
            found.append(f"Fastest of those that were timed: {fast.family}, {milliseconds(seconds)} ({fast.name}).")
        if any(each.family == "masks" for each in self.points):
            found.append("Masks make the file smaller. They do not change the multiply-accumulates of a dense runtime.")
        if (targets := self.cheaper_from) is not None:
            supernet, alone = self._cost("Once-for-All"), self._cost("trained alone")
            name, text = self.quantity.name, self.quantity.text
            inside, outside = (text(median(values)) for values in self._same_architectures)
            found += [
                f"The supernet took {supernet.first:,} epochs, each counted once for every sub-network of a step. "
                f"A network trained alone takes {alone.each:,}. For {targets:,} targets or more, the supernet is "
                "cheaper.",
                f"The median test {name} of the same architectures is {inside} in the supernet and {outside} "
                f"trained alone.",
            ]
        return found

    @property
    def cheaper_from(self) -> int | None:
        """Return the fewest networks for which a supernet takes fewer epochs than training each alone.

        Return None without a supernet, and without networks of its architectures that were trained alone.
        """
        if not {"Once-for-All", "trained alone"} <= {costs.family for costs in self.costs}:
            return None
        return self._cost("Once-for-All").first // self._cost("trained alone").each + 1

    @property
    def _same_architectures(self) -> tuple[list[float], list[float]]:
        """Return the test values of the architectures that `costs` counts alone: in the supernet, and alone.

        On validation those of the supernet are the best of many, as a search chose them.
        """
        alone = [each for each in self._of("trained alone") if each.record.epochs == self._cost("trained alone").each]
        architectures = {each.architecture for each in alone}
        inside = [each for each in self._of("Once-for-All") if each.architecture in architectures]
        return [each.record.test for each in inside], [each.record.test for each in alone]

    def _of(self, family: str) -> list[FamilyPoint]:
        return [each for each in self.points if each.family == family]

    def _cost(self, family: str) -> Costs:
        return next(costs for costs in self.costs if costs.family == family)

    def _gain(self, record: Record) -> float:
        return record.objective.gain(record.val)


def families_section(
    comparison: Comparison, every: Iterable[Record], exported: ExportedNetworks | None
) -> list[Section]:
    """Return the section of a chapter about methods side by side, if it has several (see `families_of`)."""
    families = families_of(comparison, every, exported)
    if families is None:
        return []
    return [Section("methods", "Methods side by side", families.sentences, pictures=families_pictures(families))]


def families_pictures(families: Families) -> list[Picture]:
    """Draw validation values against size, multiply-accumulates and measured time, and the total epochs."""
    return [_front(families), _cost(families)]


def families_of(
    comparison: Comparison, every: Iterable[Record], exported: ExportedNetworks | None = None
) -> Families | None:
    """Return the families of a comparison; None if its networks are of fewer than two besides the dense one.

    `every` has all records of the report. Dense rounds among them may be the same architectures, trained alone.
    """
    records = [record for record in comparison.records if family_of(record) in FAMILIES]
    if len({family_of(record) for record in records} - {"dense", FAMILIES[-1]}) < 2 or all(
        record.round for record in records
    ):
        return None
    counted = [record.channels["macs"] for record in records if record.channels]
    if not counted:
        return None
    seconds = _seconds(exported)
    points = [
        FamilyPoint(family_of(record), record, (record.channels or {"macs": counted[0][1:]})["macs"][0], each)
        for record, each in ((record, seconds.get(record.key)) for record in records)
    ]
    points += _alone(points, every, seconds)
    return Families(comparison.quantity, tuple(points), tuple(_costs(comparison.records, points)))


def family_of(record: Record) -> str:
    """Return which method made the network of a round; "supernet" for a round that is many networks.

    Networks that Uniform or Random found in a search of AMC are "rivals of AMC".
    """
    channels = record.channels or {}
    if record.round == 0:
        return "dense"
    if "space" in channels:
        return "Once-for-All" if "architecture" in channels else "supernet"
    if record.search:
        return "rivals of AMC" if record.search.get("found_by") in RIVALS else "AMC"
    return "channels" if channels else "masks"


def _seconds(exported: ExportedNetworks | None) -> dict[str, float]:
    """Return the time for one sample of each network's fastest file, by the key of its round."""
    found: dict[str, float] = {}
    keys = {facts.name: facts.origin.get("key") for facts in exported.networks} if exported else {}
    for artifact, speed in exported.measured if exported else ():
        if isinstance(key := keys.get(artifact.network), str):
            found[key] = min(speed.latency_p50, found.get(key, speed.latency_p50))
    return found


def _alone(points: Sequence[FamilyPoint], every: Iterable[Record], seconds: dict[str, float]) -> list[FamilyPoint]:
    """Return the dense rounds of `every` that trained alone an architecture that a supernet search found."""
    macs = {each.architecture: each.macs for each in points if each.family == "Once-for-All"}
    same = points[0].record.settings
    return [
        FamilyPoint("trained alone", record, macs[architecture], seconds.get(record.key))
        for record in every
        if record.round == 0
        and record.epochs
        and (architecture := str(options_of(record, "model_options").get("architecture"))) in macs
        and all(record.settings.get(name) == same.get(name) for name in ("model", "data_identity", "task"))
    ]


def _costs(records: Sequence[Record], points: Sequence[FamilyPoint]) -> Iterable[Costs]:
    """Yield what each family costs. A path's rounds are its targets; a search's epochs count for its round.

    Networks trained alone may have been trained for several lengths: the shortest counts. What a method needs first is
    the dense round of its own paths, and for a supernet all its phases too.
    """
    paths = _Paths(records)
    if alone := [each.record.epochs for each in points if each.family == "trained alone"]:
        yield Costs("trained alone", 0, min(alone))
    for family in ("masks", "channels", "AMC"):
        if own := [record for record in records if family_of(record) == family]:
            first = [paths.chain(record)[0].epochs for record in own]
            each = [record.epochs + int((record.search or {}).get("epochs", 0)) for record in own]
            yield Costs(family, round(mean(first)), round(mean(each)))
    if found := [record for record in records if family_of(record) == "Once-for-All"]:
        yield Costs("Once-for-All", max(map(paths.supernet_epochs, found)), 0)


@dataclass(frozen=True)
class _Paths:
    """Find the rounds that a round continues."""

    records: Sequence[Record]

    @cached_property
    def _by_key(self) -> dict[str, Record]:
        return {record.key: record for record in self.records}

    def chain(self, record: Record) -> list[Record]:
        """Return the rounds from the dense one to `record`; from the first that is known, if a parent is missing."""
        found = [record]
        while (parent := self._by_key.get(found[0].parent or "")) is not None:
            found.insert(0, parent)
        return found

    def supernet_epochs(self, record: Record) -> int:
        """Return the epochs of a network's supernet, each counted once for every sub-network of a step."""
        return sum(each.epochs * int(options_of(each, "phase").get("subnets", 1)) for each in self.chain(record))


def _front(families: Families) -> Picture:
    panels: list[tuple[str, Callable[[FamilyPoint], float | None], Callable[[float], str]]] = [
        ("size of the model file (bytes)", lambda each: each.record.model_bytes, lambda value: size(round(value))),
        ("multiply-accumulates", lambda each: each.macs, _short),
    ]
    if any(each.seconds is not None for each in families.points):
        panels.append(("time for one sample, fastest file", lambda each: each.seconds, milliseconds))
    heights = [height for _ in panels for height in (1.9, GAP)]
    title, name = "Small and fast networks by method", families.quantity.name
    shown = [family for family in FAMILIES if any(each.family == family for each in families.points)]
    legend = [(handle(**_style(family)), family) for family in shown]
    figure, axes = new_figure(title, f"validation {name} of each network", heights=heights, axis=0, legend=legend)
    factor = 100 if families.quantity.objective.fraction else 1
    titles: dict[str, list[str]] = {}
    for number, (label, cost_of, text_of) in enumerate(panels):
        panel = axes[2 * number]
        axes[2 * number + 1].set_axis_off()
        for family in FAMILIES:
            known = [(cost, each) for each in families.points if each.family == family and (cost := cost_of(each))]
            if known:
                gid = f"families-{number}-{FAMILIES.index(family)}"
                values = [factor * each.record.val for _, each in known]
                panel.plot([cost for cost, _ in known], values, gid=gid, **_style(family))
                titles[gid] = [
                    f"{e.name}: {text_of(cost)}, {families.quantity.text(e.record.val)}" for cost, e in known
                ]
        panel.set_xscale("log")
        panel.minorticks_off()
        _ticks(panel, text_of)
        panel.set_xlabel(label)
        panel.set_ylabel(f"validation{families.quantity.unit}")
    return Picture("families", f"{title}: {len(families.points)} networks", figure, titles)


def _cost(families: Families) -> Picture:
    """Draw the total epochs of each method by the number of networks wanted."""
    largest = min(MAX_TARGETS, max(6, 2 * (families.cheaper_from or 3)))
    targets, title = range(1, largest + 1), "Total epochs by the number of targets"
    note = "Each sub-network of a step counts as an epoch of its own."
    legend = [(handle(**_style(costs.family, line="-")), costs.family) for costs in families.costs]
    figure, (axes,) = new_figure(title, "training, retraining and search", heights=(2.2,), note=note, legend=legend)
    for costs in families.costs:
        axes.plot(targets, [costs.of(count) for count in targets], **_style(costs.family, line="-"))
    if (cheaper := families.cheaper_from) is not None and cheaper <= largest:
        axes.axvline(cheaper, color=GREY, linewidth=1.1, linestyle=":")
    axes.set_xlabel("networks wanted")
    axes.set_ylabel("epochs")
    axes.set_ylim(bottom=0)
    return Picture("families-cost", f"{title}: {len(families.costs)} methods", figure)


def _style(family: str, line: str = "none") -> dict[str, Any]:
    place = FAMILIES.index(family)
    return {"color": LINES[place], "marker": MARKERS[place], "linestyle": line, "markersize": 5, "linewidth": 1.3}


def _ticks(axes: Any, text_of: Callable[[float], str]) -> None:
    """Put ticks at both ends of a logarithmic axis and between them."""
    low, high = axes.get_xlim()
    ticks = [low * (high / low) ** part for part in (0.1, 0.37, 0.63, 0.9)]
    axes.set_xticks(ticks, [text_of(tick) for tick in ticks])


def _short(count: float) -> str:
    """Return 1.23 million as 1.2M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g}{letter}"
    return f"{count:.0f}"

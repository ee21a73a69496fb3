"""One network of a Once-for-All space, as a value: equal values are the same function, and have one digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.decode import DecodeError, decode
from orchestrator.errors import ConfigError
from orchestrator.validate import finite, text, whole


@dataclass(frozen=True)
class BlockChoice:
    """The kernel size of a block, and its inner width as a multiple of its outer one."""

    kernel: int
    expand: float

    def __post_init__(self) -> None:
        whole("kernel", self.kernel, minimum=1)
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel must be odd, got {self.kernel}: an even one has no centre")
        object.__setattr__(self, "expand", float(finite("expand", self.expand, above=0)))


@dataclass(frozen=True)
class StageChoice:
    """The width of a stage as a multiple of the family's, and the blocks that run. Skipped blocks have no entry."""

    width: float
    blocks: tuple[BlockChoice, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", float(finite("width", self.width, above=0)))
        object.__setattr__(self, "_hash", hash((self.width, self.blocks)))  # a search asks for it very often

    def __hash__(self) -> int:
        found: int = self.__dict__["_hash"]
        return found

    def __str__(self) -> str:
        """Return the stage in a few characters: `width 0.8 3x4 5x6`, kernel x expand."""
        width = [] if self.width == 1 else [f"width {self.width:g}"]
        return " ".join([*width, *(f"{block.kernel}x{block.expand:g}" for block in self.blocks)]) or "no blocks"


@dataclass(frozen=True)
class Architecture:
    """A network of `family`, for inputs of `resolution` x `resolution` pixels; None: of any size."""

    family: str
    stages: tuple[StageChoice, ...]
    resolution: int | None = None

    def __post_init__(self) -> None:
        text("family", self.family)
        if self.resolution is not None:
            whole("resolution", self.resolution, minimum=1)
        # Not of None or of a text, whose hashes differ from process to process: it is pickled with the rest.
        object.__setattr__(self, "_hash", hash((self.stages, self.resolution or 0)))

    def __hash__(self) -> int:
        found: int = self.__dict__["_hash"]
        return found

    @property
    def digest(self) -> str:
        """Return the hexadecimal sha256 of what the architecture is."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the architecture as a JSON object, which `from_json` reads."""
        return asdict(self)

    @staticmethod
    def from_json(content: Any) -> Architecture:
        """Return the architecture that `to_json` gave. Raise ConfigError if `content` is not one."""
        try:
            return decode(Architecture, json.loads(json.dumps(content)))
        except (DecodeError, TypeError) as problem:
            raise ConfigError(f"the architecture cannot be read: {problem}") from problem

    def __str__(self) -> str:
        """Return the architecture in one line: `mobilenetv3@224: 7x6 5x4 | 3x3 3x6 | ...`, kernel x expand."""
        stages = " | ".join(map(str, self.stages))
        return f"{self.family}{'' if self.resolution is None else f'@{self.resolution}'}: {stages}"

"""Predict the score of an architecture from those that were measured, and say how well that works."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from orchestrator.lazy import lazy
from orchestrator.ofa.architecture import Architecture, StageChoice
from orchestrator.ofa.spaces import Space
from orchestrator.randomness import one_thread, own_randomness, seed_all

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
else:
    torch, nn, F = lazy("torch"), lazy("torch.nn"), lazy("torch.nn.functional")

Kind = Literal["ridge", "mlp"]
Features = Callable[[Sequence[Architecture]], "Tensor"]
Layers = tuple[tuple["Tensor", "Tensor"], ...]

HIDDEN = (400, 400, 400)
EPOCHS = 200
PENALTIES = tuple(10.0**power for power in range(-4, 5))


@dataclass(frozen=True)
class OneHot:
    """Describe an architecture by zeros and ones: the kernel and the expand of every block, zeros where it is skipped,
    the width of every stage and the resolution (Cai et al. 2020, section 3.4)."""

    space: Space

    @cached_property
    def _places(self) -> dict[tuple[object, ...], int]:
        names: list[tuple[object, ...]] = [("resolution", resolution) for resolution in self.space.resolutions]
        for place, stage in enumerate(self.space.stages):
            names += [(place, "width", width) for width in stage.widths]
            for block in range(stage.depths[-1]):
                names += [(place, block, "kernel", kernel) for kernel in stage.kernels]
                names += [(place, block, "expand", expand) for expand in stage.expands]
        return {name: number for number, name in enumerate(names)}

    @cached_property
    def _known(self) -> dict[tuple[int, StageChoice], list[int]]:
        return {}

    @property
    def size(self) -> int:
        return len(self._places)

    def __call__(self, architectures: Sequence[Architecture]) -> Tensor:
        """Return the features (architectures, size)."""
        rows, columns = [], []
        for row, architecture in enumerate(architectures):
            ones = [self._places["resolution", architecture.resolution]] if self.space.resolutions else []
            for place, choice in enumerate(architecture.stages):
                ones += self._of_stage(place, choice)
            rows += [row] * len(ones)
            columns += ones
        features = torch.zeros(len(architectures), self.size)
        features[rows, columns] = 1
        return features

    def _of_stage(self, place: int, choice: StageChoice) -> list[int]:
        if (place, choice) not in self._known:
            ones = [self._places[place, "width", choice.width]]
            for number, block in enumerate(choice.blocks):
                ones.append(self._places[place, number, "kernel", block.kernel])
                ones.append(self._places[place, number, "expand", block.expand])
            self._known[place, choice] = ones
        return self._known[place, choice]


@dataclass(frozen=True, eq=False)
class Predictor:
    """Linear layers with ReLU between them; the result times `scale` plus `offset` is the predicted score."""

    features: Features
    layers: Layers
    offset: float
    scale: float

    def __call__(self, architectures: Sequence[Architecture]) -> list[float]:
        """Return the predicted score of each architecture."""
        x = self.features(architectures).to(self.layers[0][0].dtype)
        with torch.no_grad():
            for number, (weight, bias) in enumerate(self.layers):
                x = F.linear(x.relu() if number else x, weight, bias)
            found: list[float] = (x.squeeze(1) * self.scale + self.offset).tolist()
        return found


def fit(
    kind: Kind, features: Features, architectures: Sequence[Architecture], scores: Sequence[float], seed: int = 0
) -> Predictor:
    """Return a predictor fitted to measured scores; the same arguments give the same bits.

    "ridge", for up to a few hundred measurements, is a linear function whose penalty has the least squared error when
    each measurement is left out in turn. "mlp" is the paper's: three hidden layers of 400 units with ReLU.
    """
    truth = torch.tensor(scores, dtype=torch.float64)
    offset, scale = float(truth.mean()), max(float(truth.std(correction=0)), 1e-12)
    known, standard = features(architectures), (truth - offset) / scale
    with own_randomness(), one_thread():
        seed_all(seed)
        layers = _ridge(known.double(), standard) if kind == "ridge" else _mlp(known.float(), standard.float())
    return Predictor(features, layers, offset, scale)


def _ridge(known: Tensor, truth: Tensor) -> Layers:
    mean = known.mean(0)
    left, sizes, right = torch.linalg.svd(known - mean, full_matrices=False)
    best = min(PENALTIES, key=lambda penalty: float(left_out_errors(known, truth, penalty).square().mean()))
    weight = right.T @ (sizes / (sizes.square() + best) * (left.T @ truth))
    return ((weight.unsqueeze(0), -(mean @ weight).reshape(1)),)


def left_out_errors(known: Tensor, truth: Tensor, penalty: float) -> Tensor:
    """Return by how much ridge regression misses each of `truth`, of mean 0, if all others and their mean are known.

    They follow from the residuals and the hat matrix of one regression (Golub, Heath, Wahba 1979).
    """
    left, sizes, _ = torch.linalg.svd(known - known.mean(0), full_matrices=False)
    shrunk = sizes.square() / (sizes.square() + penalty)
    influence = 1 / len(truth) + left.square() @ shrunk
    errors: Tensor = (truth - left @ (shrunk * (left.T @ truth))) / (1 - influence).clamp(min=1e-9)
    return errors


def _mlp(known: Tensor, truth: Tensor) -> Layers:
    """Train with Adam on all measurements in each step; the rate falls as half a cosine."""
    widths = (known.shape[1], *HIDDEN, 1)
    linear = [nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)]
    model = nn.Sequential(linear[0], *(part for layer in linear[1:] for part in (nn.ReLU(), layer)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        F.mse_loss(model(known).squeeze(1), truth).backward()
        optimizer.step()
        schedule.step()
    return tuple((layer.weight.detach(), layer.bias.detach()) for layer in linear)

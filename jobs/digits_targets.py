"""Where do zeros pay? Three small networks, four ways to prune each, on every target that is here; 15 minutes.

    python jobs/digits_targets.py                             # rounds in ./runs, a page for each network in ./report
    python jobs/digits_targets.py --smoke --storage /tmp/look --report /tmp/look/report
    ray job submit --working-dir . -- python jobs/digits_targets.py --storage s3://bucket/digits

Needs the extra `channels`; the extras `onnx` and `targets` add targets. The networks: one like MobileNetV2, for the
handwritten digits as pictures of 32 x 32 in three colours, a perceptron for the digits as they are, and a character
model. Each is pruned to masks, blocks of 4 outputs, 2:4 and fewer channels.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.distributed.flags import Flags, parse_flags, run_job
from orchestrator.distributed.sweep_job import run_sweep
from orchestrator.experiment import Experiment
from orchestrator.files import expand_home
from orchestrator.formatting import print_problems
from orchestrator.lazy import lazy
from orchestrator.pruning import AtMost, Blocks, Channels, Explicit, Global, OneShot
from orchestrator.schedules import Cosine
from orchestrator.storage.opening import open_store
from orchestrator.task import Tokens
from orchestrator.techniques import LearningRateRewinding
from orchestrator.training.config import TrainingConfig
from orchestrator.training.optimizer import SGD, AdamW

if TYPE_CHECKING:
    from torch import Tensor, nn

    from orchestrator.data.dataset import Data, Split
else:
    nn = lazy("torch.nn")  # --help does not wait for it

SIDE = 32  # pixels of the enlarged pictures
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def inverted_residual(inputs: int, outputs: int, stride: int, expand: int = 4) -> nn.Module:
    """Return the block of MobileNetV2 (Sandler et al. 2018): widen, filter, narrow; add its input if it fits.

    It takes and returns (n, channels, height, width).
    """
    wide = inputs * expand

    class InvertedResidual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
                *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
                *(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
            )

        def forward(self, pixels: Tensor) -> Tensor:
            found: Tensor = self.layers(pixels)
            return pixels + found if stride == 1 and inputs == outputs else found

    return InvertedResidual()


def mobile(num_classes: int, width: int = 32) -> nn.Module:
    """Return a network like MobileNetV2, most of whose weights are in convolutions of 1 x 1."""
    blocks = [(1, 1), (2, 2), (2, 1), (4, 2), (4, 1)]  # outputs in widths, stride
    inputs = [width, *(width * outputs for outputs, _ in blocks)]
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()),
        *(inverted_residual(before, width * o, s) for before, (o, s) in zip(inputs, blocks, strict=False)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs[-1], num_classes)),
    )


def perceptron(num_classes: int, width: int = 1024) -> nn.Module:
    """Return a network of three linear layers for digits of 8 x 8."""
    layers = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_classes))
    return nn.Sequential(nn.Flatten(), *layers)


def pictures() -> Data:
    """Return the handwritten digits enlarged to 32 x 32 in three equal colours, (3, 32, 32) each."""
    from torch.nn import functional as F
    from torch.utils.data import TensorDataset

    from orchestrator.data.builtin import digits
    from orchestrator.data.image_data import image_data

    data, splits = digits(), []
    for name in SPLITS:
        images, labels = data.in_memory(name).tensors  # type: ignore[union-attr]
        large = F.interpolate(images, size=SIDE, mode="bilinear", align_corners=False)
        splits.append(TensorDataset(large.repeat(1, 3, 1, 1), labels))
    train, val, test = splits
    return image_data(train, val, test, num_classes=10, input_shape=(3, SIDE, SIDE), labels=tuple("0123456789"))


def trained_by(epochs: int, rate: float, optimizer: SGD | AdamW) -> TrainingConfig:
    return TrainingConfig(
        epochs=epochs,
        batch_size=32,
        schedule=Cosine(rate, warmup_epochs=1),
        optimizer=optimizer,
        clip_norm=1.0,
    )


SGD_9 = SGD(momentum=0.9, weight_decay=2e-4)
MOBILE = Experiment(
    name="digits_targets-mobile",
    model="digits_targets:mobile",
    data="digits_targets:pictures",
    training=trained_by(10, 0.05, SGD_9),
    path=Explicit((0.3, 0.1)),
    technique=LearningRateRewinding(),
)
PERCEPTRON = replace(MOBILE, name="digits_targets-mlp", model="digits_targets:perceptron", data="digits")
CHARACTERS = replace(
    MOBILE,
    name="digits_targets-chars",
    model="char_transformer",
    model_options={"width": 128, "depth": 2, "heads": 4},
    data="chars",
    data_options={"length": 64, "characters": 60_000},
    task=Tokens(unit="character"),
    training=trained_by(8, 3e-3, AdamW(weight_decay=0.01)),
)
NETWORKS = {"mobile": MOBILE, "mlp": PERCEPTRON, "chars": CHARACTERS}
CHANNELS = Channels(unit="macs", round_to=8)
OWN = ("digits_targets:mobile", "digits_targets:perceptron", "digits_targets:pictures")


def structures(experiment: Experiment) -> list[Experiment]:
    """Return an experiment for each way to prune; their dense round is one."""
    selections = {"masks": Global(), "blocks": Global(Blocks(4)), "2-of-4": Global(AtMost(2, of=4))}
    masked = [replace(experiment, name=f"{experiment.name}-{name}", selection=s) for name, s in selections.items()]
    path = Explicit((0.7, 0.5))  # of the multiply-accumulates
    return [*masked, replace(experiment, name=f"{experiment.name}-channels", selection=CHANNELS, path=path)]


def job(flags: Flags) -> int:
    """Prune every network in every way, then measure what is recommended of each on every target.

    --smoke: the first network alone, half as wide, in one step to the last density of masks.
    """
    paths = {name: [flags.applied(each) for each in structures(network)] for name, network in NETWORKS.items()}
    if flags.smoke:
        masks = paths["mobile"][0].shortened()
        paths = {"mobile": [replace(masks, path=OneShot(masks.densities()[-1]), model_options={"width": 16})]}
    if code := run_sweep([each for experiments in paths.values() for each in experiments], replace(flags, report=None)):
        return code
    problems = [problem for name, experiments in paths.items() for problem in measure(flags, name, experiments)]
    return print_problems(list(dict.fromkeys(problems)))


def measure(flags: Flags, name: str, experiments: Sequence[Experiment]) -> list[str]:
    """Print the table of one network and write its page."""
    from orchestrator.export.target_rounds import compare_rounds, recommended_of_each
    from orchestrator.report import path_records
    from orchestrator.storage.ledger import Ledger

    ledger, names = Ledger(open_store(flags.storage)), {experiment.name for experiment in experiments}
    problems: list[str] = []
    records = [record for record in path_records(ledger, problems)[0] if record.experiment in names]
    keys = [record.key for record in recommended_of_each(records)]
    folder = Path(expand_home(flags.report or "./report"), name)
    print(f"\n{name}:")
    return [*problems, *compare_rounds(ledger, keys, folder=folder, trust=OWN)]


if __name__ == "__main__":
    sys.exit(run_job(parse_flags(Flags, __doc__, MOBILE).of_several(), job))

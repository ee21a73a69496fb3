"""List the ratios of each layer in Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets".

ICLR 2017, sections 4.2 (ResNet-56 and ResNet-110 on CIFAR-10) and 4.3 (ResNet-34 on ImageNet). Only the first
convolution of a residual block loses filters, the same number in every block of a stage; sensitive blocks lose none.
The paper numbers convolutions from 1, without those of shortcuts: the first one of block k is layer 2k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def _ratios(blocks: Sequence[int], removed: Sequence[float], skipped: Sequence[int]) -> dict[str, float]:
    """Return {layer: fraction of filters to remove}.

    `blocks`: their number in each stage; `removed`: the fraction of each stage; `skipped`: the paper's layer numbers.
    """
    ratios, number = {}, 0
    for stage, (count, ratio) in enumerate(zip(blocks, removed, strict=True), start=1):
        for block in range(count):
            number += 2
            if ratio and number not in skipped:
                ratios[f"layer{stage}.{block}.conv1"] = ratio
    return ratios


_RESNET34_SKIPPED = (2, 8, 14, 16, 26, 28, 30, 32)

PRESETS: Mapping[str, Mapping[str, float]] = {
    "li2017:resnet56-A": _ratios((9, 9, 9), (0.1, 0.1, 0.1), (16, 20, 38, 54)),
    "li2017:resnet56-B": _ratios((9, 9, 9), (0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54)),
    "li2017:resnet110-A": _ratios((18, 18, 18), (0.5, 0, 0), (36,)),
    "li2017:resnet110-B": _ratios((18, 18, 18), (0.5, 0.4, 0.3), (36, 38, 74)),
    "li2017:resnet34-A": _ratios((3, 4, 6, 3), (0.3, 0.3, 0.3, 0), _RESNET34_SKIPPED),
    "li2017:resnet34-B": _ratios((3, 4, 6, 3), (0.5, 0.6, 0.4, 0), _RESNET34_SKIPPED),
}
"""Ratios by name. Use `shortcut="padding"` in the CIFAR networks, and `Channels(ratios=..., round_to=1)`."""

"""How much of each layer went in Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets".

ICLR 2017, sections 4.2 (ResNet-56 and ResNet-110 on CIFAR-10) and 4.3 (ResNet-34 on ImageNet). Only the first
convolution of a residual block loses filters, as many in every block of a stage, and sensitive blocks lose none. The
paper numbers convolutions from 1, without those of shortcuts: the first one of block k is layer 2k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def _ratios(blocks: Sequence[int], removed: Sequence[float], skipped: Sequence[int]) -> dict[str, float]:
    """{layer: fraction of its filters that goes}: `blocks` and `removed` by stage, `skipped` by the paper's numbers."""
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
"""By name. The CIFAR networks have `shortcut="padding"`, and nothing is rounded: `Channels(ratios=..., round_to=1)`."""

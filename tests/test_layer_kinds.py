"""Kinds of layers: every class of torch that derives from a private base is of its kind, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from orchestrator.layer_kinds import BatchNorm, Convolution, InstanceNorm, TransposedConvolution

LAZY = nn.modules.lazy.LazyModuleMixin  # its classes become others at the first call
CLASSES = [
    each
    for each in vars(nn).values()
    if isinstance(each, type) and issubclass(each, nn.Module) and not issubclass(each, LAZY)
]


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        (nn.modules.conv._ConvNd, Convolution),
        (nn.modules.conv._ConvTransposeNd, TransposedConvolution),
        (nn.modules.batchnorm._BatchNorm, BatchNorm),
        (nn.modules.batchnorm._NormBase, BatchNorm | InstanceNorm),
    ],
)
def test_the_classes_of_torch_with_this_base_are_the_kind(base: type, kind: Any) -> None:
    having_the_base = {each for each in CLASSES if issubclass(each, base)}
    assert len(having_the_base) > 2
    assert having_the_base == {each for each in CLASSES if issubclass(each, kind)}

"""Multiply-accumulates, by hand and as they are known."""

import pytest
import torch
from torch import nn

from orchestrator.pruning.macs import Macs, count_macs
from orchestrator.training.models import build_model


def test_closed_forms():
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)  # 5 x 5 to 3 x 3
    up = nn.ConvTranspose2d(6, 2, 2, stride=2, bias=False)  # from 3 x 3
    head = nn.Linear(2 * 6 * 6, 7)
    module = nn.Sequential(conv, nn.BatchNorm2d(6), up, nn.Flatten(), head).train()
    dense = 9 * 6 * 2 * 9 + 9 * 6 * 2 * 4 + 72 * 7
    assert count_macs(module, (4, 5, 5)) == Macs(dense, dense)
    assert module.training
    assert module[1].num_batches_tracked == 0
    with torch.no_grad():
        conv.weight[0] = 0
        head.weight[:, :10] = 0
    assert count_macs(module, (4, 5, 5)) == Macs(dense, dense - 9 * 2 * 9 - 10 * 7)


def test_a_layer_that_is_used_twice_works_twice():
    layer = nn.Conv2d(1, 1, 1)
    assert count_macs(nn.Sequential(layer, layer), (1, 4, 4)).dense == 2 * 16


def test_attention():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            rows = x.flatten(2).transpose(1, 2)
            return self.attention(rows, rows, rows)[0]

    assert count_macs(Attention(), (8, 3, 5)).dense == 15 * (3 * 8 * 8 + 8 * 8)


@pytest.mark.parametrize(("name", "macs"), [("resnet50", 4_089_184_256), ("mobilenet_v2", 300_774_272)])
def test_networks_whose_macs_are_known(name, macs):
    module = build_model(f"torchvision:{name}", {}, num_classes=1000, input_shape=(3, 224, 224), seed=0)
    assert count_macs(module, (3, 224, 224)).dense == macs

"""Multiply-accumulates, by hand and as they are known."""

import pytest
import torch
from torch import nn

from orchestrator.models.build import build_model
from orchestrator.pruning.macs import Macs, count_macs


def test_closed_forms():
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)  # 5 x 5 to 3 x 3
    up = nn.ConvTranspose2d(6, 2, 2, stride=2, bias=False)  # from 3 x 3
    head = nn.Linear(2 * 6 * 6, 7)
    module = nn.Sequential(conv, nn.BatchNorm2d(6), up, nn.Flatten(), head).train()
    dense = 9 * 6 * 2 * 9 + 9 * 6 * 2 * 4 + 72 * 7
    assert count_macs(module, torch.zeros(1, 4, 5, 5)) == Macs(dense, dense)
    assert module.training
    assert module[1].num_batches_tracked == 0
    with torch.no_grad():
        conv.weight[0] = 0
        head.weight[:, :10] = 0
    assert count_macs(module, torch.zeros(1, 4, 5, 5)) == Macs(dense, dense - 9 * 2 * 9 - 10 * 7)


class Steps(nn.Module):
    """A recurrent layer over the rows of an image, given whole or packed, then a cell once."""

    def __init__(self, packed):
        super().__init__()
        self.packed = packed
        self.rows = nn.LSTM(5, 4, num_layers=2, bidirectional=True, proj_size=2, batch_first=True)
        self.cell = nn.GRUCell(4, 3)

    def forward(self, images):
        rows = images[:, 0]
        if self.packed:
            rows = nn.utils.rnn.pack_padded_sequence(rows, torch.full((len(rows),), rows.shape[1]), batch_first=True)
        _, (last, _) = self.rows(rows)
        return self.cell(last[-2:].transpose(0, 1).flatten(1))


@pytest.mark.parametrize("packed", [False, True])
def test_recurrent_layers_multiply_at_every_step(packed):
    module = Steps(packed)
    first, second = 16 * 5 + 16 * 2 + 2 * 4, 16 * 4 + 16 * 2 + 2 * 4  # each of two directions
    dense = 7 * 2 * (first + second) + 9 * 4 + 9 * 3
    assert count_macs(module, torch.zeros(1, 1, 7, 5)) == Macs(dense, dense)


def test_a_layer_that_is_used_twice_works_twice():
    layer = nn.Conv2d(1, 1, 1)
    assert count_macs(nn.Sequential(layer, layer), torch.zeros(1, 1, 4, 4)).dense == 2 * 16


class Attention(nn.Module):
    """Queries from the image, keys and values from a memory of `rows` rows, or from the image where there is none."""

    def __init__(self, rows=0, width=8, by_name=False, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.by_name = by_name
        self.register_buffer("memory", torch.randn(1, rows, width) if rows else None)

    def forward(self, x):
        query = x.flatten(2).transpose(1, 2)
        memory = query if self.memory is None else self.memory
        if self.by_name:
            return self.attention(key=memory, value=memory, query=query)[0]
        return self.attention(query, memory, memory)[0]


@pytest.mark.parametrize("by_name", [False, True])
def test_attention(by_name):
    own = Attention(by_name=by_name)
    assert count_macs(own, torch.zeros(1, 8, 3, 5)).dense == 15 * (3 * 8 * 8 + 8 * 8)
    cross = Attention(7, by_name=by_name)
    assert count_macs(cross, torch.zeros(1, 8, 3, 5)).dense == (15 + 7 + 7 + 15) * 8 * 8
    other_width = Attention(7, width=6, kdim=6, vdim=6, by_name=by_name)
    with torch.no_grad():
        other_width.attention.k_proj_weight[0] = 0
    dense = 15 * 8 * 8 + 2 * 7 * 6 * 8 + 15 * 8 * 8
    assert count_macs(other_width, torch.zeros(1, 8, 3, 5)) == Macs(dense, dense - 7 * 6)


def test_layers_called_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.up, self.head = nn.Conv2d(3, 2, 1), nn.ConvTranspose2d(2, 4, 2), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(input=self.up(input=self.conv(input=x)).mean((2, 3)))

    assert count_macs(Named(), torch.zeros(1, 3, 4, 4)).dense == 16 * 6 + 16 * 2 * 4 * 4 + 20


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_outputs_does_nothing():
    assert count_macs(nn.Sequential(nn.Flatten(), nn.Linear(48, 0)), torch.zeros(1, 3, 4, 4)).dense == 0


@pytest.mark.parametrize(("name", "macs"), [("resnet50", 4_089_184_256), ("mobilenet_v2", 300_774_272)])
def test_networks_whose_macs_are_known(name, macs):
    module = build_model(f"torchvision:{name}", {}, {"num_classes": 1000, "input_shape": (3, 224, 224)}, seed=0)
    assert count_macs(module, torch.zeros(1, 3, 224, 224)).dense == macs

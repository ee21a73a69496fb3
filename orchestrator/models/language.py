"""Build small language models: they read the tokens of a sequence, and give the logits of each next token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.validate import flag, fraction, whole


class RecurrentLanguageModel(nn.Module):
    """An embedding, GRU layers and a linear layer: ids (n, length) to logits (n, length, vocabulary).

    `tied`: the linear layer has the embedding's weights (Press and Wolf 2017). `dropout` is applied to what each GRU
    layer returns (Zaremba et al. 2014).
    """

    def __init__(
        self, vocabulary: int, width: int = 128, layers: int = 1, dropout: float = 0.0, tied: bool = False
    ) -> None:
        super().__init__()
        whole("vocabulary", vocabulary, minimum=1)
        whole("width", width, minimum=1)
        whole("layers", layers, minimum=1)
        fraction("dropout", dropout, zero=True)
        self.embedding = nn.Embedding(vocabulary, width)
        self.gru = nn.GRU(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocabulary)
        initialise_gru(self.gru)
        nn.init.normal_(self.embedding.weight, std=width**-0.5 if flag("tied", tied) else 1.0)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden, _ = self.gru(self.embedding(ids))
        logits: Tensor = self.head(self.dropout(hidden))
        return logits


class CausalTransformer(nn.Module):
    """A Transformer in which each place sees itself and those before it: ids (n, up to `length`) to logits.

    Positions are learned, and normalisation comes before each part of a block. Weights begin as in GPT-2 (Radford et
    al. 2019): normal with a standard deviation of 0.02, divided by sqrt(2 depth) where they add to the residual stream.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int = 128, depth: int = 2, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        whole("vocabulary", vocabulary, minimum=1)
        whole("length", length, minimum=1)
        whole("width", width, minimum=1)
        whole("depth", depth, minimum=1)
        whole("heads", heads, minimum=1)
        if width % heads:
            raise ConfigError(f"width must be a multiple of heads, got {width} and {heads}")
        fraction("dropout", dropout, zero=True)
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        self._initialise(depth)

    def _initialise(self, depth: int) -> None:
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                adds = name.endswith(("attention.out", "shrink"))
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * depth) if adds else 0.02)
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.blocks(self.dropout(self.embedding(ids) + self.position(places)))
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class TransformerBlock(nn.Module):
    """Causal self-attention, then a feed-forward network of four times the width; each adds to what it is given."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalSelfAttention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.grow = nn.Linear(width, 4 * width)
        self.shrink = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden)))
        grown = F.gelu(self.grow(self.feed_norm(hidden)))
        added: Tensor = self.dropout(self.shrink(grown))
        return hidden + added


class CausalSelfAttention(nn.Module):
    """Scaled dot-product attention of several heads over this place and those before it (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (self._by_head(layer(hidden)) for layer in (self.query, self.key, self.value))
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # (n, heads, length, width / heads)
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out

    def _by_head(self, values: Tensor) -> Tensor:
        """Return (n, length, width) as (n, heads, length, width / heads)."""
        n, length, width = values.shape
        return values.view(n, length, self.heads, width // self.heads).transpose(1, 2)


def initialise_gru(gru: nn.GRU) -> None:
    """Give each gate of a GRU an orthogonal recurrent weight, a Xavier-uniform input weight, and biases of 0."""
    for name, parameter in gru.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
            continue
        for gate in parameter.detach().chunk(3):
            (nn.init.orthogonal_ if "_hh_" in name else nn.init.xavier_uniform_)(gate)

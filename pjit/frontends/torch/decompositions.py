"""Which operators torch takes apart before pjit sees the graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch._decomp import core_aten_decompositions, get_decompositions

from pjit.frontends.torch.registry import handler_of

aten = torch.ops.aten
_MORE = (
    "_native_batch_norm_legit_functional", "_native_batch_norm_legit.no_stats", "native_batch_norm",
    "grid_sampler_2d", "_batch_norm_with_update_functional", "_adaptive_max_pool2d", "lerp",
    "index_add", "index_copy", "log_sigmoid_forward", "rrelu_with_noise_functional",
    "_fused_rms_norm", "_weight_norm_interface", "unfold_copy", "masked_scatter", "cumprod",
    "std_mean", "hypot", "frexp", "nan_to_num", "dist",
)  # fmt: skip


@lru_cache(maxsize=1)
def decompositions() -> dict[Any, Callable]:
    """Torch's decompositions into its core operators, but for those that pjit has itself."""
    import pjit.frontends.torch.importer  # noqa: F401  (registers the handlers)

    table = dict(core_aten_decompositions())
    packets = [getattr(aten, n.partition(".")[0], None) for n in _MORE]
    table.update(get_decompositions([p for p in packets if p is not None]))
    for op in [op for op in table if handler_of(op) is not None]:
        del table[op]
    table[aten._transformer_encoder_layer_fwd.default] = _encoder_layer
    table[aten._native_multi_head_attention.default] = _self_attention
    return table


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """``[batch, length, features]`` as ``[batch, heads, length, features of a head]``."""
    return x.view(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def _float_mask(mask: torch.Tensor, kind: int | None, dtype: torch.dtype) -> torch.Tensor:
    """A mask that is added to the scores; kind 1 is ``[batch, length]``, of keys to leave out."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(mask, float("-inf"))
    return mask[:, None, None, :] if kind == 1 else mask


def _self_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, embed_dim: int, num_head: int,
    qkv_weight: torch.Tensor, qkv_bias: torch.Tensor, proj_weight: torch.Tensor,
    proj_bias: torch.Tensor, mask: torch.Tensor | None = None, need_weights: bool = True,
    average_attn_weights: bool = True, mask_type: int | None = None,
) -> Any:  # fmt: skip
    """The fast path of ``nn.MultiheadAttention``."""
    weights, biases = qkv_weight.chunk(3), qkv_bias.chunk(3)
    parts = zip((query, key, value), weights, biases, strict=True)
    q, k, v = (_heads(F.linear(x, w, b), num_head) for x, w, b in parts)
    scores = q @ k.transpose(-2, -1) * (embed_dim // num_head) ** -0.5
    if mask is not None:
        scores = scores + _float_mask(mask, mask_type, scores.dtype)
    probabilities = torch.softmax(scores, -1)
    y = (probabilities @ v).transpose(1, 2).reshape(query.shape[0], query.shape[1], embed_dim)
    y = F.linear(y, proj_weight, proj_bias)
    if not need_weights:
        return y, query.new_empty(0)
    return y, probabilities.mean(1) if average_attn_weights else probabilities


def _encoder_layer(
    src: torch.Tensor, embed_dim: int, num_heads: int, qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor, proj_weight: torch.Tensor, proj_bias: torch.Tensor, use_gelu: bool,
    norm_first: bool, eps: float, norm_weight_1: torch.Tensor, norm_bias_1: torch.Tensor,
    norm_weight_2: torch.Tensor, norm_bias_2: torch.Tensor, ffn_weight_1: torch.Tensor,
    ffn_bias_1: torch.Tensor, ffn_weight_2: torch.Tensor, ffn_bias_2: torch.Tensor,
    mask: torch.Tensor | None = None, mask_type: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """The fast path of ``nn.TransformerEncoderLayer``."""

    def norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (embed_dim,), weight, bias, eps)

    def attend(x: torch.Tensor) -> torch.Tensor:
        weights = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        return _self_attention(
            x, x, x, embed_dim, num_heads, *weights, mask, False, True, mask_type
        )[0]  # fmt: skip

    def feed(x: torch.Tensor) -> torch.Tensor:
        inner = F.linear(x, ffn_weight_1, ffn_bias_1)
        return F.linear(F.gelu(inner) if use_gelu else F.relu(inner), ffn_weight_2, ffn_bias_2)

    first, second = (norm_weight_1, norm_bias_1), (norm_weight_2, norm_bias_2)
    if norm_first:
        x = src + attend(norm(src, *first))
        return x + feed(norm(x, *second))
    x = norm(src + attend(src), *first)
    return norm(x + feed(x), *second)

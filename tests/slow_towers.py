"""The towers of a dual encoder spelled out by hand: DistilBERT, ResNet, projection head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def by_hand(head: nn.Module, features: Tensor) -> Tensor:
    """Linear, GELU, linear, residual, LayerNorm, unit length: one number at a time."""
    w = {name: value.tolist() for name, value in head.named_parameters()}
    rows: list[list[float]] = []
    for x in features.tolist():
        first = affine(w["projection.weight"], w["projection.bias"], x)
        bent = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in first]
        out = [
            a + b for a, b in zip(first, affine(w["fc.weight"], w["fc.bias"], bent), strict=True)
        ]
        mean = sum(out) / len(out)
        spread = math.sqrt(sum((v - mean) ** 2 for v in out) / len(out) + 1e-5)
        scaled = zip(out, w["layer_norm.weight"], w["layer_norm.bias"], strict=True)
        normed = [(v - mean) / spread * a + b for v, a, b in scaled]
        length = math.sqrt(sum(v * v for v in normed))
        rows.append([v / length for v in normed])
    return torch.tensor(rows, dtype=torch.float64)


def affine(weight: list[list[float]], bias: list[float], x: list[float]) -> list[float]:
    pairs = zip(weight, bias, strict=True)
    return [sum(a * b for a, b in zip(row, x, strict=True)) + c for row, c in pairs]


def distilbert_by_hand(model: nn.Module, ids: list[int]) -> Tensor:
    """CLS of the last layer of DistilBERT for one text: embeddings, attention and MLP by matmul."""
    w = dict(model.state_dict())

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    words, places = (
        w["embeddings.word_embeddings.weight"],
        w["embeddings.position_embeddings.weight"],
    )
    x = norm(words[ids] + places[: len(ids)], "embeddings.LayerNorm")
    for layer in range(model.config.n_layers):
        name = f"transformer.layer.{layer}"
        q, k, v = (linear(x, f"{name}.attention.{part}_lin") for part in "qkv")
        width = q.shape[1] // model.config.n_heads
        mixed: list[Tensor] = []
        for head in range(model.config.n_heads):
            part = slice(head * width, (head + 1) * width)
            weights = (q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(-1)
            mixed.append(weights @ v[:, part])
        x = norm(
            linear(torch.cat(mixed, 1), f"{name}.attention.out_lin") + x, f"{name}.sa_layer_norm"
        )
        bent = linear(x, f"{name}.ffn.lin1")
        bent = 0.5 * bent * (1 + torch.erf(bent / math.sqrt(2)))
        x = norm(linear(bent, f"{name}.ffn.lin2") + x, f"{name}.output_layer_norm")
    return x[0]


def resnet_by_hand(model: nn.Module, pixels: Tensor) -> Tensor:
    """A ResNet of basic or bottleneck blocks in evaluation mode, averaged over all places."""
    w = dict(model.state_dict())
    basic = model.config.layer_type == "basic"

    def block(x: Tensor, name: str, stride: int, bend: bool) -> Tensor:
        size = w[f"{name}.convolution.weight"].shape[-1]
        x = functional.conv2d(x, w[f"{name}.convolution.weight"], None, stride, size // 2)
        mean, var = w[f"{name}.normalization.running_mean"], w[f"{name}.normalization.running_var"]
        scale = w[f"{name}.normalization.weight"] / (var + 1e-5).sqrt()
        shift = w[f"{name}.normalization.bias"] - mean * scale
        x = x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        return x.clamp(min=0) if bend else x

    x = block(pixels, "embedder.embedder", 2, True)
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage, depth in enumerate(model.config.depths):
        for layer in range(depth):
            name = f"encoder.stages.{stage}.layers.{layer}"
            stride = 2 if stage > 0 and layer == 0 else 1
            if basic:
                out = block(block(x, f"{name}.layer.0", stride, True), f"{name}.layer.1", 1, False)
            else:  # the stride is that of the 3x3 in the middle
                out = block(block(x, f"{name}.layer.0", 1, True), f"{name}.layer.1", stride, True)
                out = block(out, f"{name}.layer.2", 1, False)
            if f"{name}.shortcut.convolution.weight" in w:
                x = block(x, f"{name}.shortcut", stride, False)
            x = (out + x).clamp(min=0)
    return x.mean(dim=(2, 3))

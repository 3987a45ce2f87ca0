"""The hash of weights: what every index and every picture on disk was written with."""

from __future__ import annotations

import hashlib
import struct

import torch
from torch import nn

from clipguide.clip.weights import PIPELINE_HEADER, hash_weights


def module() -> nn.Module:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -2.0]]))
        layer.bias.copy_(torch.tensor([3.0]))
    return layer


def test_both_hashes_are_those_of_the_bytes_written_out() -> None:
    """Written out by hand: a change of either makes every index and picture on disk foreign."""
    bias, weight = struct.pack("<f", 3.0), struct.pack("<2f", 0.5, -2.0)
    clip = b"bias (1,) torch.float32\0" + bias + b"weight (1, 2) torch.float32\0" + weight
    pipeline = b"bias torch.float32 (1,)\n" + bias + b"weight torch.float32 (1, 2)\n" + weight
    assert hash_weights(module()) == hashlib.sha256(clip).hexdigest()
    assert hash_weights(module(), PIPELINE_HEADER) == hashlib.sha256(pipeline).hexdigest()


def test_a_bit_a_type_and_a_name_change_it_and_the_layout_does_not() -> None:
    layer, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.load_state_dict(layer.state_dict())
    other.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)  # other strides
    assert hash_weights(layer) == hash_weights(other)
    other.weight = nn.Parameter(layer.weight.detach().clone())
    with torch.no_grad():
        other.weight[0, 0] = torch.nextafter(other.weight[0, 0], torch.tensor(torch.inf))
    hashes = {hash_weights(layer), hash_weights(other), hash_weights(nn.Sequential(layer))}
    assert len(hashes | {hash_weights(layer.to(torch.float64))}) == 4

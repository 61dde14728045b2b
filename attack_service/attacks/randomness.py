"""Random numbers that belong to a sample: the same in any batch, order, shard, attempt and on any device.

A counter-based generator: the bits are splitmix64 (Steele, Lea and Flood, OOPSLA 2014, doi 10.1145/2660193.2660195) of
the sample's key and a counter, in integer arithmetic that every device does alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def sample_keys(seed: int, sample_indices: Sequence[int], purpose: str, device: torch.device) -> Tensor:
    """A key for each sample, (n), int64; other purposes and other seeds have unrelated ones."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    base = int.from_bytes(digest[:8], "big", signed=True)
    indices = torch.tensor(list(sample_indices), dtype=torch.int64, device=device)
    return mix(mix(indices) + base)


def uniform(keys: Tensor, counter: int | Tensor, size: int) -> Tensor:
    """(n, size) numbers in [0, 1), multiples of 2^-24, float32; `counter`, of all or of each (n), names the draw."""
    return _bits(keys, counter, size).float() * 2.0**-24


def normal(keys: Tensor, counter: int | Tensor, size: int) -> Tensor:
    """(n, size) standard normal numbers, float32: one of 2^16 quantiles each, so at most 4.3 from zero."""
    words = _words(keys, counter, (size + 3) // 4)
    # Four numbers a word, by table: black-box attacks draw as many as they ask pixels.
    places = words.view(torch.int16)[:, :size].to(torch.int32)
    return _quantiles(keys.device)[places.add_(2**15)]


@lru_cache(maxsize=16)
def _quantiles(device: torch.device) -> Tensor:
    shares = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    quantiles: Tensor = torch.special.ndtri(shares)
    return quantiles.float().to(device)


def mix(values: Tensor) -> Tensor:
    """splitmix64's finalizer, a bijection of 64-bit integers, element by element."""
    # In place after the first line, which is twice as fast.
    values = values + _signed(0x9E3779B97F4A7C15)
    values.bitwise_xor_(_shift(values, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    values.bitwise_xor_(_shift(values, 27)).mul_(_signed(0x94D049BB133111EB))
    return values.bitwise_xor_(_shift(values, 31))


def _bits(keys: Tensor, counter: int | Tensor, size: int) -> Tensor:
    """(n, size) integers of 24 random bits."""
    return _shift(_words(keys, counter, size), 40)


def _words(keys: Tensor, counter: int | Tensor, size: int) -> Tensor:
    """(n, size) integers of 64 random bits."""
    streams = mix(keys + mix(torch.as_tensor(counter, dtype=torch.int64, device=keys.device)))
    places = torch.arange(size, dtype=torch.int64, device=keys.device) * _signed(0x9E3779B97F4A7C15)
    return mix(streams[:, None] + places)


def _shift(values: Tensor, count: int) -> Tensor:
    """A logical shift to the right: torch's own keeps the sign."""
    return (values >> count).bitwise_and_((1 << (64 - count)) - 1)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number

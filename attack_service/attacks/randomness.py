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


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


# How the states of splitmix64 follow one another; and from draw to draw another odd number, unrelated to that.
_GAMMA = _signed(0x9E3779B97F4A7C15)
_STRIDE = _signed(0xD1342543DE82EF95)


def sample_keys(seed: int, sample_indices: Sequence[int], purpose: str, device: torch.device) -> Tensor:
    """A key for each sample, (n), int64; other purposes and other seeds have unrelated ones."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    base = int.from_bytes(digest[:8], "big", signed=True)
    indices = torch.tensor(list(sample_indices), dtype=torch.int64, device=device)
    return mix(mix(indices) + base)


def uniform(keys: Tensor, counter: int | Tensor, size: int) -> Tensor:
    """(n, size) numbers in [0, 1), multiples of 2^-24, float32; `counter`, of all or of each (n), names the draw."""
    halves = _words(keys, counter, (size + 1) // 2).view(torch.int32)[:, :size]
    # Two numbers a word; what is cut off are signs.
    return (halves >> 8).bitwise_and_(2**24 - 1).float().mul_(2.0**-24)


def normal(keys: Tensor, counter: int | Tensor, size: int) -> Tensor:
    """(n, size) standard normal numbers, float32: one of 2^16 quantiles each, so at most 4.3 from zero."""
    words = _words(keys, counter, (size + 3) // 4)
    # Four numbers a word, by table: black-box attacks draw as many as they ask pixels.
    places = words.view(torch.int16)[:, :size].to(torch.int32).add_(2**15)
    return _quantiles(keys.device).index_select(0, places.flatten()).reshape(places.shape)


def coins(keys: Tensor, counter: int | Tensor, size: int) -> Tensor:
    """(n, size) numbers that are zero or one with equal probability, float32."""
    places = _words(keys, counter, (size + 63) // 64).view(torch.uint8).to(torch.int32)
    # Eight coins a byte, by table.
    return _tosses(keys.device).index_select(0, places.flatten()).reshape(len(places), -1)[:, :size]


@lru_cache(maxsize=16)
def _tosses(device: torch.device) -> Tensor:
    tosses = (torch.arange(2**8)[:, None] >> torch.arange(8)) & 1
    return tosses.float().to(device)


@lru_cache(maxsize=16)
def _quantiles(device: torch.device) -> Tensor:
    shares = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    quantiles: Tensor = torch.special.ndtri(shares)
    return quantiles.float().to(device)


def mix(values: Tensor) -> Tensor:
    """splitmix64's finalizer, a bijection of 64-bit integers, element by element."""
    return _finalize(values + _GAMMA)


def _finalize(values: Tensor) -> Tensor:
    # In place, which is twice as fast.
    values.bitwise_xor_(_shift(values, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    values.bitwise_xor_(_shift(values, 27)).mul_(_signed(0x94D049BB133111EB))
    return values.bitwise_xor_(_shift(values, 31))


def _words(keys: Tensor, counter: int | Tensor, size: int) -> Tensor:
    """(n, size) integers of 64 random bits."""
    # As 64-bit integers wrap around.
    offset = counter * _STRIDE if isinstance(counter, Tensor) else _signed(counter * _STRIDE % 2**64)
    streams = mix(keys + offset)
    return _finalize(streams[:, None] + _places(size, keys.device))


@lru_cache(maxsize=64)
def _places(size: int, device: torch.device) -> Tensor:
    return torch.arange(1, size + 1, dtype=torch.int64, device=device) * _GAMMA


def _shift(values: Tensor, count: int) -> Tensor:
    """A logical shift to the right: torch's own keeps the sign."""
    return (values >> count).bitwise_and_((1 << (64 - count)) - 1)

"""Random numbers are those of splitmix64, belong to a sample alone, and have the distribution that they say."""

from __future__ import annotations

import pytest
import torch

from attack_service.attacks.randomness import mix, normal, sample_keys, uniform

CPU = torch.device("cpu")
GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def test_the_bits_are_splitmix64() -> None:
    """The first five outputs of the generator for the seed 1234567, as Rosetta Code has them ("Pseudo-random
    numbers/Splitmix64"); the k-th is the finalizer of the seed plus k increments."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = [(1234567 + k * GOLDEN_GAMMA) % 2**64 for k in range(5)]
    signed = torch.tensor([state - 2**64 if state >= 2**63 else state for state in states])
    before = signed.clone()
    assert [int(value) % 2**64 for value in mix(signed)] == published
    assert torch.equal(signed, before)


def test_a_samples_numbers_do_not_depend_on_its_neighbours() -> None:
    indices = [3, 1_000_000, 0, 17]
    keys = sample_keys(7, indices, "start", CPU)
    for row, index in enumerate(indices):
        alone = sample_keys(7, [index], "start", CPU)
        assert torch.equal(alone, keys[row : row + 1])
        for draw in (uniform, normal):
            assert torch.equal(draw(alone, 2, 33), draw(keys, 2, 33)[row : row + 1])
    # A counter of each row's own is the same as one after the other.
    counters = torch.tensor([5, 0, 2, 5])
    together = uniform(keys, counters, 8)
    for row, counter in enumerate(counters.tolist()):
        assert torch.equal(together[row], uniform(keys, counter, 8)[row])


def test_other_seeds_purposes_samples_and_counters_have_other_numbers() -> None:
    drawn = [
        uniform(sample_keys(seed, [index], purpose, CPU), counter, 16)
        for seed, index, purpose, counter in (
            (1, 1, "start", 0),
            (2, 1, "start", 0),
            (1, 2, "start", 0),
            (1, 1, "window", 0),
            (1, 1, "start", 1),
            (2**64 - 1, 1, "start", 0),
        )
    ]
    assert not torch.isin(torch.cat(drawn[1:]), drawn[0]).any()


@pytest.mark.parametrize("counter", [0, 9])
def test_uniform_numbers_fill_the_interval_evenly(counter: int) -> None:
    """Kolmogorov and Smirnov: of 40 000 numbers the largest gap to the straight line stays below 1.95 / sqrt(n)."""
    numbers = uniform(sample_keys(0, list(range(200)), "even", CPU), counter, 200).flatten().double()
    n = len(numbers)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    line = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert float((numbers.sort().values - line).abs().max()) < 1.95 / n**0.5


def test_normal_numbers_have_the_moments_and_the_shares_of_the_normal_distribution() -> None:
    """Mean 0, variance 1, kurtosis 3, 31.7 % beyond one deviation, 4.55 % beyond two: within four standard errors."""
    numbers = normal(sample_keys(0, list(range(400)), "bell", CPU), 0, 250)
    assert numbers.dtype == torch.float32
    numbers = numbers.double().flatten()
    n = len(numbers)
    assert abs(float(numbers.mean())) < 4 / n**0.5
    assert abs(float(numbers.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((numbers**4).mean()) - 3) < 4 * (96 / n) ** 0.5
    for bound, share in ((1.0, 0.3173), (2.0, 0.0455)):
        assert abs(float((numbers.abs() > bound).double().mean()) - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_the_numbers_of_a_row_do_not_follow_one_another() -> None:
    """Neighbouring numbers, neighbouring samples, and draws after one another are uncorrelated: within 4 / sqrt(n)."""
    keys = sample_keys(3, list(range(300)), "pairs", CPU)
    first, second = normal(keys, 0, 301).double(), normal(keys, 1, 301).double()
    pairs = [(first[:, :-1], first[:, 1:]), (first[:-1], first[1:]), (first, second)]
    for one, other in pairs:
        assert abs(float((one * other).mean())) < 4 / one.numel() ** 0.5

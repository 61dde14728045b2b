"""The attack service on a CUDA device: it trains, attacks as a CPU does, and measures what the device really did."""

from __future__ import annotations

import time

import pytest
import torch

from attack_service.clocks import DeviceClock
from attack_service.errors import MemoryExhausted
from attack_service.exclusivity import read
from attack_service.jobs import MemoryLedger
from attack_service.known_attacks import ATTACKS
from attack_service.outcomes import Verdict

pytestmark = pytest.mark.gpu

NATIVE = sorted(name for name, attack in ATTACKS.items() if attack.access and "native" in attack.engines)


def fates(ledger: MemoryLedger) -> dict[int, tuple[Verdict, int]]:
    return {outcome.sample_index: (outcome.verdict, outcome.check_count) for outcome in ledger.outcomes}


def test_a_resnet50_trained_on_the_device_reaches_its_accuracy(first_run: MemoryLedger) -> None:
    record = first_run.model_record
    assert record is not None
    assert record.clean_accuracy >= 0.95
    assert record.training_seconds > 0
    assert record.training_device_name == record.attack_device_name == torch.cuda.get_device_name()
    assert "NVIDIA" in record.attack_device_name
    print(f"\ntrained in {record.training_seconds:.1f} s, accuracy {record.clean_accuracy:.3f}")


def test_a_run_on_the_device_records_every_sample(first_run: MemoryLedger) -> None:
    assert len(first_run.outcomes) == 200
    verdicts = [outcome.verdict for outcome in first_run.outcomes]
    assert 20 <= verdicts.count(Verdict.FAILED) <= 180
    checks = {outcome.check_count for outcome in first_run.outcomes if outcome.verdict is Verdict.FAILED}
    assert len(checks) >= 4
    for outcome in first_run.outcomes:
        if outcome.verdict is Verdict.FAILED:
            assert outcome.seconds_upper is not None
            assert outcome.seconds_upper > outcome.seconds_lower
    seconds = sum(outcome.seconds_upper or outcome.seconds_lower for outcome in first_run.outcomes)
    print(f"\n{seconds:.2f} device seconds for 200 samples, {first_run.seconds_per_query:.2e} a query")


@pytest.mark.parametrize("attack", NATIVE)
def test_the_device_and_a_cpu_agree_on_verdict_and_check(first_run: MemoryLedger, run_on, attack: str) -> None:
    """Of 200 samples one may differ by rounding, for one attack."""
    on_device, on_cpu = (fates(run_on(device, attack=attack)) for device in ("cuda", "cpu"))
    same = sum(on_device[index] == on_cpu[index] for index in on_cpu)
    print(f"\n{attack}: {same} of {len(on_cpu)} agree")
    assert same >= 0.995 * len(on_cpu)


@pytest.mark.parametrize("attack", NATIVE)
def test_the_order_of_the_samples_changes_no_bit_on_the_device(first_run: MemoryLedger, run_on, attack: str) -> None:
    """A second run begins where a first one stopped, so its samples meet others in their passes."""
    whole = run_on("cuda", attack=attack)
    resumed = MemoryLedger()
    resumed.outcomes = [outcome for outcome in whole.outcomes if outcome.sample_index % 3 == 0]
    run_on("cuda", ledger=resumed, attack=attack)
    bits = [
        {
            outcome.sample_index: (outcome.verdict, outcome.check_count, outcome.query_count_upper, outcome.distance_l2)
            for outcome in ledger.outcomes
        }
        for ledger in (whole, resumed)
    ]
    assert bits[0] == bits[1]


def test_a_sample_fails_at_the_same_check_in_any_batch_on_the_device(first_run: MemoryLedger, run_on) -> None:
    together, apart = fates(run_on("cuda", batch_size=200)), fates(run_on("cuda", batch_size=16))
    same = sum(together[index] == apart[index] for index in together)
    print(f"\n{same} of {len(together)} agree")
    assert same >= 0.995 * len(together)


def test_the_clock_waits_for_the_device(cuda: torch.device) -> None:
    """Launching a second of work takes microseconds; the clock must see the second."""
    matrix = torch.randn(8192, 8192, device=cuda)
    torch.cuda.synchronize()
    clock = DeviceClock(cuda)
    begin = time.perf_counter()
    for _ in range(20):
        matrix @ matrix
    launched = time.perf_counter() - begin
    measured = clock.lap()
    torch.cuda.synchronize()
    assert measured > 5 * launched
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    clock.restart()
    start.record()
    for _ in range(20):
        matrix @ matrix
    end.record()
    measured = clock.lap()
    assert measured == pytest.approx(start.elapsed_time(end) / 1000, rel=0.1)


def test_a_batch_that_does_not_fit_is_halved_and_the_run_goes_on(first_run: MemoryLedger, run_on) -> None:
    """Of a device of which most memory is taken, a batch of every sample is too much."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5e9 / total))
    try:
        ledger = run_on("cuda", image_size=224, epoch_count=1, batch_size=360, sample_count=360)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(ledger.outcomes) == 360
    assert any("ran out of memory" in warning for warning in ledger.warnings)


def test_running_out_of_memory_for_good_says_what_to_do(first_run: MemoryLedger, run_on, monkeypatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        torch.empty(2**50, device="cuda")

    monkeypatch.setattr("attack_service.handles.Handle.probe", out_of_memory)
    with pytest.raises(MemoryExhausted, match=r"ran out of memory.*--batch-size"):
        run_on("cuda")


def test_who_else_is_on_the_device_is_known(cuda: torch.device) -> None:
    """Where its management library is installed; another process on it would be a violation, and is no failure here."""
    pytest.importorskip("pynvml")
    reading = read(cuda)
    assert reading is not None
    print(f"\n{reading}")

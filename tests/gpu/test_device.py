"""The attack service on a CUDA device: it trains, attacks as a CPU does, and measures what the device really did."""

from __future__ import annotations

import time

import pytest
import torch

from attack_service.clocks import DeviceClock
from attack_service.errors import MemoryExhausted
from attack_service.jobs import MemoryLedger
from attack_service.outcomes import Verdict

pytestmark = pytest.mark.gpu


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


@pytest.mark.parametrize(("attack", "norm"), [("pgd", "inf"), ("pgd", "2"), ("fgm", "inf")])
def test_the_device_and_a_cpu_agree_on_99_percent_of_the_verdicts(
    first_run: MemoryLedger, run_on, attack: str, norm: str
) -> None:
    on_device, on_cpu = (fates(run_on(device, attack=attack, norm=norm)) for device in ("cuda", "cpu"))
    same = sum(on_device[index][0] is on_cpu[index][0] for index in on_cpu)
    same_check = sum(on_device[index] == on_cpu[index] for index in on_cpu)
    print(f"\n{attack} {norm}: {same} of {len(on_cpu)} verdicts and {same_check} checks agree")
    assert same >= 0.99 * len(on_cpu)


def test_a_sample_fails_at_the_same_check_in_any_batch_on_the_device(first_run: MemoryLedger, run_on) -> None:
    together, apart = fates(run_on("cuda", batch_size=200)), fates(run_on("cuda", batch_size=16))
    same = sum(together[index] == apart[index] for index in together)
    print(f"\n{same} of {len(together)} agree")
    assert same >= 0.99 * len(together)


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


def test_running_out_of_memory_says_what_to_do(first_run: MemoryLedger, run_on, monkeypatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        torch.empty(2**50, device="cuda")

    monkeypatch.setattr("attack_service.running.warm_up", out_of_memory)
    with pytest.raises(MemoryExhausted, match=r"ran out of memory.*--batch-size"):
        run_on("cuda")

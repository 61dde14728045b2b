"""Whether a GPU was disturbed: what its management library says, in words. No GPU is needed to be told so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from attack_service.exclusivity import Reading, read, violations

CUDA = torch.device("cuda")
QUIET = Reading(process_count=1, is_slice=False)


class Library:
    """Answers like `pynvml`, whose names it has, about one GPU."""

    class NVMLError(Exception):
        pass

    nvmlClocksEventReasonSwThermalSlowdown = 0x20  # noqa: N815  as the library calls it
    nvmlClocksEventReasonHwThermalSlowdown = 0x40  # noqa: N815  as above
    nvmlClocksEventReasonHwPowerBrakeSlowdown = 0x80  # noqa: N815  as above

    def __init__(self, process_count: int = 1, reasons: int = 0, *, broken: bool = False) -> None:
        self.asked: list[str] = []
        self.open_count = 0
        self._process_count = process_count
        self._reasons = reasons
        self._broken = broken

    def nvmlInit(self) -> None:  # noqa: N802  as above
        self.open_count += 1

    def nvmlShutdown(self) -> None:  # noqa: N802  as above
        self.open_count -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802  as above
        self.asked.append(uuid)
        if self._broken:
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[object]:  # noqa: N802  as above
        return [object()] * self._process_count

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802  as above
        if handle.startswith("MIG-"):
            raise self.NVMLError
        return self._reasons


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """A GPU with a given identifier."""

    def set_uuid(uuid: str) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid))

    set_uuid("4f1d")
    return set_uuid


def test_the_names_that_are_used_are_those_of_the_library() -> None:
    import pynvml

    for name in vars(Library):
        if name.lower().startswith("nvml"):
            assert hasattr(pynvml, name)


def test_a_gpu_that_does_nothing_else_is_no_violation(gpu) -> None:
    library = Library()
    assert read(CUDA, library) == QUIET
    assert library.asked == ["GPU-4f1d"]
    assert library.open_count == 0
    assert violations(QUIET, QUIET, "H200") == []


def test_other_processes_heat_and_slices_are_named(gpu) -> None:
    hot = read(CUDA, Library(process_count=3, reasons=0x40 | 0x80 | 0x4))
    assert hot == Reading(3, False, ("it was too hot", "its power supply slowed it down"))
    crowd, heat, power = violations(QUIET, hot, "H200")
    assert "3 processes computed on H200" in crowd
    assert "too hot" in heat
    assert "power supply" in power
    gpu("MIG-77")
    part = read(CUDA, Library())
    assert part == Reading(1, True)
    assert "slice" in violations(part, None, "H200")[0]


def test_what_cannot_be_asked_is_no_reading(gpu) -> None:
    library = Library(broken=True)
    assert read(CUDA, library) is None
    assert library.open_count == 0
    assert read(torch.device("cpu"), Library()) is None
    assert violations(None, None, "H200") == []

"""Files of weights are read as tensors; a pickle that would run something is refused and runs nothing."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from attack_service.errors import CheckpointInvalid
from attack_service.weight_files import read, state_dict

WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


class Touch:
    """What a pickle would run: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_and_nothing_of_it_is_run(tmp_path: Path, legacy: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pt"
    torch.save(WEIGHTS | {"extra": Touch(marker)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointInvalid, match=r"weights\.pt holds more than tensors.*nothing of it was run"):
        state_dict(read(str(path)))
    assert not marker.exists()
    # And it is one: torch itself runs it when it is told to trust the file.
    torch.load(path, weights_only=False)["extra"].close()
    assert marker.exists()


@pytest.mark.parametrize("container", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_what_training_scripts_wrap_around_weights_is_taken_off(tmp_path: Path, container: Any, prefix: str) -> None:
    named: Any = {prefix + name: tensor for name, tensor in WEIGHTS.items()}
    torch.save(named if container is None else {container: named, "epoch": 3}, tmp_path / "weights.pt")
    loaded = state_dict(read(str(tmp_path / "weights.pt")))
    assert loaded.keys() == WEIGHTS.keys()
    assert all(torch.equal(loaded[name], WEIGHTS[name]) for name in WEIGHTS)


def test_safetensors_come_back_with_the_digest_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(WEIGHTS, path)
    file = read(str(path))
    assert file.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in state_dict(file).items())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.safetensors", b"", "is no safetensors file"),
        ("x.safetensors", b"\x80\x04.", "is no safetensors file"),
        ("x.pt", b"", r"is no file of torch\.save"),
        ("x.pt", b"hello", r"is no file of torch\.save \(KeyError\)"),
        ("x.pt", b"PK\x03\x04 half", "x.pt "),
        ("x.pt", b"not a pickle at all", "x.pt "),
    ],
)
def test_damaged_files_are_refused_with_their_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointInvalid, match=said):
        state_dict(read(str(tmp_path / name)))


@pytest.mark.parametrize("held", [{}, {"epoch": 3, "layer.weight": torch.ones(2)}, [torch.ones(2)], torch.ones(2)])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, held: Any) -> None:
    torch.save(held, tmp_path / "weights.pt")
    with pytest.raises(CheckpointInvalid, match=r"state dict|which is no tensor"):
        state_dict(read(str(tmp_path / "weights.pt")))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["sparse", "meta", "nested", "quantized"])
def test_a_tensor_without_plain_values_is_refused(tmp_path: Path, kind: str) -> None:
    """Torch's reader makes them without complaint, and nearly every operation on them fails."""
    tensor = {
        "sparse": lambda: torch.ones(2, 2).to_sparse(),
        "meta": lambda: torch.ones(2, 2, device="meta"),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "quantized": lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
    }[kind]()
    torch.save({"layer.weight": tensor}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointInvalid, match=r"holds 'layer\.weight', which is sparse.*save plain tensors"):
        state_dict(read(str(tmp_path / "weights.pt")))


def test_a_small_file_that_would_unpack_to_much_is_refused(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    # Torch itself would unpack it.
    assert torch.load(tmp_path / "bomb.pt", weights_only=True)["layer.weight"].numel() == 2_000_000
    with pytest.raises(CheckpointInvalid, match="is compressed"):
        state_dict(read(str(tmp_path / "bomb.pt")))
    assert state_dict(read(str(tmp_path / "plain.pt"))).keys() == {"layer.weight"}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.pt")
    with pytest.raises(CheckpointInvalid, match="it is no regular file"):
        read(str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("path", ["nowhere/weights.pt", ".", "~nobody-of-this-name/weights.pt"])
def test_a_file_that_the_worker_cannot_read_says_whose_path_it_is(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointInvalid, match="the path is one on the worker's machine"):
        read(path if path.startswith("~") else str(tmp_path / path))

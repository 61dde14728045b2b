"""Weights in files of the user's: read without running anything that the file holds."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import stat
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from attack_service.errors import CheckpointInvalid

# Where training scripts put the weights beside an optimizer's state, and what wrappers put before their names.
_CONTAINERS = ("state_dict", "model", "model_state_dict")
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True, slots=True)
class UserFile:
    """A file of the user's, read once: what is checked is what is loaded, whoever changes the file meanwhile."""

    path: Path
    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def read(path: str) -> UserFile:
    """Read a file. Raises `CheckpointInvalid` if the worker cannot."""
    where = Path(path)
    try:
        where = where.expanduser()
        # Without waiting: a pipe that nobody writes to would hold the worker for ever.
        with open(os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it is no regular file")
            return UserFile(where, file.read())
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointInvalid(
            f"cannot read {where} ({reason}); the path is one on the worker's machine, so put the file there"
        ) from error


def state_dict(file: UserFile) -> dict[str, Tensor]:
    """The named tensors in a `.safetensors` file, or in one of torch's with nothing but tensors in it.

    Raises `CheckpointInvalid`, having run nothing of the file, if that is not what it is.
    """
    if file.path.suffix == ".safetensors":
        try:
            return load_safetensors(file.content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointInvalid(f"{file.path} is no safetensors file ({_sentence(error)}); save it anew") from error
    if inflates(file.content):
        raise CheckpointInvalid(f"{file.path} is compressed, which torch.save does not do; save the weights anew")
    try:
        loaded = torch.load(io.BytesIO(file.content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointInvalid(
            f"{file.path} holds more than tensors, or is damaged, and nothing of it was run; save the weights alone, "
            "with torch.save(model.state_dict(), …) or safetensors.torch.save_file(model.state_dict(), …)"
        ) from error
    except Exception as error:
        # Whatever a damaged file makes of torch's reader: it raises nearly every kind.
        raise CheckpointInvalid(
            f"{file.path} is no file of torch.save ({_sentence(error)}); save the weights anew, with "
            "torch.save(model.state_dict(), …)"
        ) from error
    return _unwrapped(loaded, file.path)


def inflates(content: bytes) -> bool:
    """Whether an archive claims to hold far more than it has bytes: torch stores, and would unpack a bomb."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(entry.file_size for entry in archive.infolist()) > 2 * len(content) + 65536
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        # Whatever it is, torch's reader says so.
        return False


def _unwrapped(loaded: object, path: Path) -> dict[str, Tensor]:
    for name in _CONTAINERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointInvalid(f"{path} holds no state dict; save one with torch.save(model.state_dict(), …)")
    for name, tensor in loaded.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise CheckpointInvalid(
                f"{path} holds {str(name)[:80]!r}, which is no tensor; save the weights alone, with "
                "torch.save(model.state_dict(), …)"
            )
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
            raise CheckpointInvalid(
                f"{path} holds {name[:80]!r}, which is sparse, quantized, nested or without values; save plain tensors"
            )
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in loaded):
            loaded = {name.removeprefix(prefix): tensor for name, tensor in loaded.items()}
    return dict(loaded)


def _sentence(error: BaseException) -> str:
    # Of a missing key the message is the key alone, which torch's reader takes from the first byte of a file.
    lines = [] if isinstance(error, KeyError) else str(error).strip().splitlines()
    lines = lines or [type(error).__name__]
    return textwrap.shorten(lines[0], 160, placeholder=" …").rstrip(".")

"""Bringing in a model that was trained elsewhere: torchvision's weights, a checkpoint, an exported program.

Nothing is believed of it: its shapes, its numbers and its answers are checked before it is attacked, and its accuracy
is measured, never read from a file.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from attack_service import models, weight_files
from attack_service.datasets import Dataset, Split
from attack_service.errors import CheckpointInvalid, UnknownName
from attack_service.jobs import AttackSpec
from attack_service.programs import load_program

_PROBE_COUNT = 8
_DOWNLOAD_TIMEOUT_SECONDS = 20.0
# Old checkpoints lack what counts the batches that batch norm has seen; a model in evaluation mode does not need it.
_DISPENSABLE = ".num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Brought:
    """A model that was trained elsewhere, on the device, in evaluation mode; the digest is that of its file."""

    model: nn.Module
    digest: str
    source: str
    warnings: tuple[str, ...] = ()


def bring(spec: AttackSpec, dataset: Dataset, device: torch.device) -> Brought:
    """Load the model that a specification brings, its shapes checked. Raises `CheckpointInvalid`, `UnknownName`."""
    if spec.program:
        file = weight_files.read(spec.program)
        return Brought(load_program(file, device), file.digest, f"the program {file.path}")
    architecture = models.Architecture(spec.model, spec.stem, dataset.channel_count, dataset.class_count)
    if spec.weights:
        return _bring_weights(spec, architecture, device)
    file = weight_files.read(spec.checkpoint)
    tensors = weight_files.state_dict(file)
    source = f"the checkpoint {file.path}"
    mean, deviation, warnings = None, None, tuple[str, ...]()
    if "network.conv1.weight" not in tensors:
        tensors = {f"network.{name}": tensor for name, tensor in tensors.items()}
        mean, deviation = dataset.channel_statistics()
        shown = ", ".join(f"{m:.3f} ± {d:.3f}" for m, d in zip(mean.tolist(), deviation.tolist(), strict=True))
        warnings = (
            f"{source} does not say how its images were normalised; the mean and the standard deviation of the "
            f"training images were taken ({shown} by channel), and other ones would give another model",
        )
    classifier = _assembled(architecture, tensors, source, mean, deviation)
    return Brought(classifier.to(device), file.digest, source, warnings)


def _bring_weights(spec: AttackSpec, architecture: models.Architecture, device: torch.device) -> Brought:
    known: Any = torchvision.models.get_model_weights(spec.model)
    if spec.weights not in known.__members__:
        raise UnknownName("spec.weights", f"weights of {spec.model}", spec.weights, list(known.__members__))
    entry = known[spec.weights]
    source = f"the weights {spec.weights} of {spec.model}"
    class_count = len(entry.meta["categories"])
    if class_count != architecture.class_count:
        raise CheckpointInvalid(
            f"{source} tell {class_count} classes apart, but the dataset has {architecture.class_count}; give an "
            "imagefolder with one folder for each of those classes, in their order"
        )
    file = fetch(entry.url, Path(torch.hub.get_dir()) / "checkpoints")
    transforms = entry.transforms()
    mean, deviation = torch.tensor(transforms.mean), torch.tensor(transforms.std)
    tensors = {f"network.{name}": tensor for name, tensor in weight_files.state_dict(file).items()}
    classifier = _assembled(architecture, tensors, source, mean, deviation)
    warnings: tuple[str, ...] = ()
    if transforms.crop_size[0] != spec.image_size:
        warnings = (
            f"{source} were measured by torchvision on images of {transforms.crop_size[0]} pixels, here they see "
            f"{spec.image_size}",
        )
    return Brought(classifier.to(device), file.digest, source, warnings)


def fetch(url: str, folder: Path) -> weight_files.UserFile:
    """torchvision's file of weights, from torch hub's folder, or downloaded into it.

    The name ends with the first digits of the file's SHA-256. Raises `CheckpointInvalid`, saying which file to put
    where, if it cannot be downloaded or is another one.
    """
    path = folder / url.rpartition("/")[2]
    if not path.is_file():
        timeout = socket.getdefaulttimeout()
        # Otherwise a silent mirror would be waited for without end.
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECONDS)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=_prefix(path), progress=False)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(getattr(error, "reason", "") or error).strip().splitlines() or [type(error).__name__]
            raise CheckpointInvalid(
                f"cannot download {url} ({reason[0][:120]}); put the file into {folder} on the worker's machine, or "
                "start the worker with TORCH_HOME set to the folder whose hub/checkpoints has it"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
    file = weight_files.read(str(path))
    if not file.digest.startswith(_prefix(path)):
        raise CheckpointInvalid(f"{path} is damaged: its SHA-256 does not begin as its name says; remove it")
    return file


def _prefix(path: Path) -> str:
    found = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    return found[1] if found else ""


def _assembled(
    architecture: models.Architecture,
    tensors: Mapping[str, Tensor],
    source: str,
    mean: Tensor | None,
    deviation: Tensor | None,
) -> models.Classifier:
    """A classifier with these tensors, and this normalisation if they have none of their own."""
    with torch.random.fork_rng(devices=[]):
        classifier = models.build(architecture)
    given = dict(tensors)
    if mean is not None and deviation is not None:
        given |= {"mean": mean.reshape(1, -1, 1, 1), "deviation": deviation.reshape(1, -1, 1, 1)}
    expected = classifier.state_dict()
    _require_architecture(architecture, given, source)
    absent = [name for name in expected if name not in given and not name.endswith(_DISPENSABLE)]
    unknown = [name for name in given if name not in expected]
    if absent or unknown:
        what = f"lacks {absent[0]}" if absent else f"has {unknown[0]}, which {architecture.model} has not"
        raise CheckpointInvalid(f"{source} {what}; attack it with the --model that it was trained as")
    for name, tensor in given.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.is_floating_point() != wanted.is_floating_point():
            raise CheckpointInvalid(
                f"{source} has {name} of shape {tuple(tensor.shape)} and {_kind(tensor)}, but {architecture.model} "
                f"with the stem {architecture.stem} takes {tuple(wanted.shape)} and {_kind(wanted)}; attack it with "
                "the --model and --stem that it was trained with"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointInvalid(f"{source} has values in {name} that are not finite; train it anew")
    if bool((given["deviation"] == 0).any()):
        raise CheckpointInvalid(f"{source} has a deviation of 0 to divide by; save it with the real one")
    classifier.load_state_dict(given, strict=False)
    return classifier.eval()


def _require_architecture(architecture: models.Architecture, tensors: Mapping[str, Tensor], source: str) -> None:
    """Say in the user's words what the shapes of the first and the last layer mean."""
    first, last = tensors.get("network.conv1.weight"), tensors.get("network.fc.weight")
    if first is not None and first.ndim == 4:
        if first.shape[1] != architecture.channel_count:
            raise CheckpointInvalid(
                f"{source} takes images of {first.shape[1]} channels (network.conv1.weight), but the dataset has "
                f"{architecture.channel_count}; give the dataset that it was trained for"
            )
        stem = {7: "imagenet", 3: "cifar"}.get(first.shape[2])
        if stem is not None and stem != architecture.stem:
            raise CheckpointInvalid(
                f"{source} has the stem {stem} (network.conv1.weight is {first.shape[2]} x {first.shape[2]}); "
                f"give --stem {stem}"
            )
    if last is not None and last.ndim == 2 and last.shape[0] != architecture.class_count:
        raise CheckpointInvalid(
            f"{source} tells {last.shape[0]} classes apart (network.fc.weight), but the dataset has "
            f"{architecture.class_count}; give the dataset that it was trained for"
        )


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def require_sound(brought: Brought, split: Split, class_count: int, device: torch.device) -> tuple[str, ...]:
    """Raise `CheckpointInvalid` unless the model answers images as a classifier does; return what else is odd about it.

    Its weights and logits are finite, (n, classes) floats, the same for the same images and whatever else is in the
    batch; gradients flow back to the images. Probabilities in place of logits are odd, but can be attacked.
    """
    model, source = brought.model, brought.source
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointInvalid(f"{source} has values in {name} that are not finite; train it anew")
    leaf = split.images(torch.arange(min(_PROBE_COUNT, len(split)))).to(device).requires_grad_(True)
    logits = _answers(brought, leaf)
    if not (isinstance(logits, Tensor) and logits.is_floating_point() and logits.ndim == 2):
        said = (
            f"{_kind(logits)} of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        )
        raise CheckpointInvalid(f"{source} answers {len(leaf)} images with {said}; it must return (n, classes) logits")
    if tuple(logits.shape) != (len(leaf), class_count):
        raise CheckpointInvalid(
            f"{source} answers {len(leaf)} images with logits of shape {tuple(logits.shape)}, but the dataset has "
            f"{class_count} classes; give the dataset that it was trained for"
        )
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointInvalid(f"{source} answers images in [0, 1] with logits that are not finite; train it anew")
    scale = float(logits.detach().abs().max()) or 1.0
    if float((_answers(brought, leaf.detach()) - logits).detach().abs().max()) > 1e-4 * scale:
        raise CheckpointInvalid(
            f"{source} answers the same images differently each time; export it in evaluation mode, and put chance "
            "into a --defence"
        )
    alone = torch.cat([_answers(brought, leaf.detach()[row : row + 1]) for row in range(len(leaf))])
    if float((alone - logits).detach().abs().max()) > 1e-3 * scale:
        raise CheckpointInvalid(
            f"{source} answers an image differently beside other images; export it in evaluation mode"
        )
    gradient = torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] if logits.requires_grad else None
    if gradient is None:
        raise CheckpointInvalid(
            f"no gradient flows from the logits of {source} back to its images; export it without torch.no_grad() "
            "and without detach()"
        )
    if not bool(torch.isfinite(gradient).all()):
        raise CheckpointInvalid(f"the gradients of {source} are not finite; train it anew")
    if bool((logits >= 0).all()) and bool((logits.sum(dim=1) - 1).abs().max() < 1e-4):
        return (
            f"{source} seems to answer with probabilities in place of logits: their gradients vanish where it is sure, "
            "and attacks that use them look weaker than they are; leave its softmax out",
        )
    return ()


def _answers(brought: Brought, images: Tensor) -> Tensor:
    try:
        logits: Tensor = brought.model(images)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointInvalid(
            f"{brought.source} cannot classify images of shape {tuple(images.shape[1:])} ({words}); give the "
            "--image-size and the dataset that it was made for"
        ) from error
    return logits

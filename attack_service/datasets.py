"""Datasets of labelled images: the digits that come with scikit-learn, torchvision's, and folders of images."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import pickle
import shutil
import socket
import textwrap
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attack_service.errors import DatasetUnavailable, InvalidSpecification

_DOWNLOAD_TIMEOUT_SECONDS = 20.0
_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # the package dataset-fashion-mnist
_TEST_EVERY = 5  # a folder without a test split gives every fifth image of a class to it


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled images, kept as they were read: (n, channels, height, width), bytes, or floats in [0, 1].

    Raises `DatasetUnavailable` for other numbers, such as those that were normalised already.
    """

    pixels: Tensor
    labels: Tensor
    image_size: int

    def __post_init__(self) -> None:
        if self.pixels.dtype == torch.uint8 or not len(self.pixels):
            return
        lowest, highest = float(self.pixels.min()), float(self.pixels.max())
        # Written so that a NaN is refused too.
        if not (self.pixels.is_floating_point() and lowest >= 0 and highest <= 1):
            kind = str(self.pixels.dtype).removeprefix("torch.")
            raise DatasetUnavailable(
                f"the images are {kind} from {lowest:g} to {highest:g}; give them as bytes, or as floats in [0, 1] "
                "without any normalisation, which is the model's first layer"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        """Float32 images in [0, 1], (n, channels, image_size, image_size), each independent of the others asked for."""
        pixels = self.pixels[indices]
        images = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        return images.clamp(0, 1)

    def digest(self) -> str:
        """SHA-256, hexadecimal, of the images as they are attacked, and the labels."""
        digest = hashlib.sha256(f"{tuple(self.pixels.shape)} {self.pixels.dtype} {self.image_size}".encode())
        digest.update(self.pixels.contiguous().numpy().tobytes())
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Dataset:
    """A training split, and a test split that is attacked."""

    train: Split
    test: Split
    class_count: int

    @property
    def channel_count(self) -> int:
        return int(self.train.pixels.shape[1])

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, in [0, 1]."""
        total, square, count = torch.zeros(self.channel_count).double(), torch.zeros(self.channel_count).double(), 0
        for indices in torch.arange(len(self.train)).split(32):
            images = self.train.images(indices).double()
            total += images.sum(dim=(0, 2, 3))
            square += images.square().sum(dim=(0, 2, 3))
            count += images.numel() // self.channel_count
        mean = total / count
        deviation = (square / count - mean.square()).clamp_min(0).sqrt()
        # A channel that never varies carries nothing; dividing by its deviation would make it infinite.
        return mean.float(), deviation.where(deviation > 1e-6, 1.0).float()


def load(name: str, *, image_size: int, data_root: Path) -> Dataset:
    """Read a dataset. Raises `DatasetUnavailable`, saying which file to put where."""
    kind, _, path = name.partition(":")
    if kind == "imagefolder":
        try:
            root = Path(path).expanduser().absolute()
        except RuntimeError as error:
            raise DatasetUnavailable(f"cannot find {path}: {_sentence(error)}; pass imagefolder:PATH") from error
        return _image_folder(root, image_size)
    if kind == "digits":
        return _digits(image_size)
    class_count = 100 if kind == "cifar100" else 10
    train = _read_torchvision(kind, data_root, class_count, train=True)
    test = _read_torchvision(kind, data_root, class_count, train=False)
    return Dataset(Split(*train, image_size), Split(*test, image_size), class_count)


def balanced_indices(labels: Tensor, count: int) -> Tensor:
    """Positions of `count` samples, the classes as even as the split allows: the first of every class, the second, …

    The order depends on the labels alone, and a smaller count is a prefix of a larger one.
    """
    if count > len(labels):
        raise InvalidSpecification(
            "spec.sample_count", f"sample_count is {count}, but the test split has {len(labels)} samples"
        )
    rank = torch.zeros_like(labels)
    for label in labels.unique():
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    order = sorted(range(len(labels)), key=lambda index: (int(rank[index]), int(labels[index])))
    return torch.tensor(order[:count], dtype=torch.int64)


def shard_positions(labels: Tensor, shard_index: int, shard_count: int) -> Tensor:
    """Which of samples with these labels, (n,), form one shard: positions in ascending order.

    Every shard has as many samples of every class as any other, give or take one: a shard that ends early says about
    the job what the others will.
    """
    by_class = labels.argsort(stable=True)
    return by_class[shard_index::shard_count].sort().values


def _digits(image_size: int) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = torch.from_numpy((bunch.images / 16).astype(np.float32)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=bunch.target, random_state=0)
    return Dataset(
        Split(pixels[train], labels[train], image_size),
        Split(pixels[test], labels[test], image_size),
        class_count=10,
    )


def _read_torchvision(kind: str, data_root: Path, class_count: int, *, train: bool) -> tuple[Tensor, Tensor]:
    """Pixels and labels of one split, read by torchvision, which checks the files' digests before it unpacks them."""
    from torchvision import datasets

    reader: Callable[..., Any] = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }[kind]
    folder, files = {
        "mnist": (data_root / "MNIST" / "raw", "the four *-ubyte.gz files of MNIST"),
        "fashion-mnist": (data_root / "FashionMNIST" / "raw", "the four *-ubyte.gz files of Fashion-MNIST"),
        "cifar10": (data_root, "cifar-10-python.tar.gz"),
        "cifar100": (data_root, "cifar-100-python.tar.gz"),
    }[kind]
    try:
        with _alone_in(data_root):
            _unpack_idx(folder, folder)
            if kind == "fashion-mnist":
                _unpack_idx(_DEBIAN_FASHION_MNIST, folder)
            try:
                read = reader(root=str(data_root), train=train, download=False)
            except RuntimeError:
                # What torchvision raises when the files are missing or do not have the digests it knows.
                with _impatient_sockets():
                    read = reader(root=str(data_root), train=train, download=True)
    except (
        OSError, RuntimeError, ValueError, EOFError, AssertionError, KeyError, pickle.UnpicklingError, zlib.error
    ) as error:  # fmt: skip
        raise DatasetUnavailable(
            f"cannot read or download {kind} ({_sentence(error)}); put {files} into {folder}, "
            "or start the worker with the --data-root where they are"
        ) from error
    pixels = torch.as_tensor(read.data)
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    labels = torch.as_tensor(read.targets, dtype=torch.int64)
    if len(pixels) != len(labels) or not len(labels):
        raise DatasetUnavailable(
            f"{kind} in {folder} has {len(pixels)} images but {len(labels)} labels; put {files} there anew"
        )
    if int(labels.max()) >= class_count:
        raise DatasetUnavailable(
            f"{kind} in {folder} has the label {int(labels.max())}, but {class_count} classes; it is another dataset: "
            f"put {files} there"
        )
    return pixels, labels


def _unpack_idx(source_folder: Path, folder: Path) -> None:
    """Unpack those of MNIST's files that are not there unpacked: Debian and most mirrors ship them packed."""
    for packed in sorted(source_folder.glob("*-ubyte.gz")):
        unpacked = folder / packed.stem
        if unpacked.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        aside = unpacked.with_name(f".{unpacked.name}.part")
        with gzip.open(packed, "rb") as source, aside.open("wb") as target:
            shutil.copyfileobj(source, target)
        aside.replace(unpacked)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time unpack and download into a folder; where nothing can be written nothing can clash."""
    with ExitStack() as stack:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _impatient_sockets() -> Iterator[None]:
    """Let connections that do not say otherwise give up: torchvision would wait for a silent mirror for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _sentence(error: BaseException) -> str:
    text = str(error)
    return textwrap.shorten(text, 200, placeholder=" …").rstrip(".") or type(error).__name__


def _image_folder(root: Path, image_size: int) -> Dataset:
    if not root.is_dir():
        raise DatasetUnavailable(f"{root} is not a folder that the worker can read; pass imagefolder:PATH with one")
    try:
        if (root / "train").is_dir() and (root / "test").is_dir():
            files = {part: _class_files(root / part) for part in ("train", "test")}
            if files["train"].keys() != files["test"].keys():
                differing = sorted(files["train"].keys() ^ files["test"].keys())
                raise DatasetUnavailable(f"{root}: train and test do not have the same classes: {', '.join(differing)}")
        else:
            every = _class_files(root)
            files = {
                "train": {name: [p for i, p in enumerate(paths) if i % _TEST_EVERY] for name, paths in every.items()},
                "test": {name: paths[::_TEST_EVERY] for name, paths in every.items()},
            }
            for name, paths in files["train"].items():
                if not paths:
                    raise DatasetUnavailable(f"{root / name} holds one image; a class needs at least two")
        arrays = {
            part: [
                (label, _read_image(path, image_size))
                for label, name in enumerate(sorted(classes))
                for path in classes[name]
            ]
            for part, classes in files.items()
        }
    except OSError as error:
        raise DatasetUnavailable(f"cannot read {error.filename or root}: {_sentence(error)}") from error
    grey = all(array.shape[2] == 1 for part in arrays.values() for _, array in part)
    splits = {}
    for part, images in arrays.items():
        stacked = np.stack([array if grey or array.shape[2] == 3 else array.repeat(3, axis=2) for _, array in images])
        labels = torch.tensor([label for label, _ in images])
        splits[part] = Split(torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous(), labels, image_size)
    return Dataset(splits["train"], splits["test"], class_count=len(files["train"]))


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The images of every class, a folder each, sorted by name."""
    classes = {
        entry.name: sorted(path for path in entry.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if len(classes) < 2:
        raise DatasetUnavailable(f"{folder} has {len(classes)} class folders; a classifier needs at least two")
    for name, paths in classes.items():
        if not paths:
            raise DatasetUnavailable(f"{folder / name} holds no image ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    return classes


def _read_image(path: Path, image_size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One image, its shorter side resized and its middle cut out: (image_size, image_size, 1 or 3) bytes."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            # A portable grey map of 16 bits is opened as one of 32.
            if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
                raise ValueError("a pixel has 32 bits, whose range nobody knows; save it with 8 or 16")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                # Pillow would cut off every value above 255 and leave a white image.
                upright = Image.fromarray((np.asarray(upright).astype(np.uint32) // 257).astype(np.uint8))
            converted = upright.convert("L" if upright.mode in ("1", "L", "LA") else "RGB")
            fitted = ImageOps.fit(converted, (image_size, image_size), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetUnavailable(f"{path} is not an image that can be read ({_sentence(error)}); remove it") from error
    array = np.asarray(fitted, dtype=np.uint8)
    return array[:, :, None] if array.ndim == 2 else array

"""Datasets in their genuine formats, and what is said when files are missing, broken or too few."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from attack_service.datasets import Split, balanced_indices, load
from attack_service.errors import DatasetUnavailable, InvalidSpecification

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def test_digits_are_real_grey_images_in_the_unit_interval(tmp_path: Path) -> None:
    dataset = load("digits", image_size=32, data_root=tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.class_count, dataset.channel_count) == (1437, 360, 10, 1)
    images = dataset.test.images(torch.arange(360))
    assert images.shape == (360, 1, 32, 32)
    assert images.dtype == torch.float32
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    for label in range(10):
        assert int((dataset.test.labels == label).sum()) in (35, 36, 37)
    mean, deviation = dataset.channel_statistics()
    every = dataset.train.images(torch.arange(1437))
    assert mean.item() == pytest.approx(every.mean().item(), abs=1e-5)
    assert deviation.item() == pytest.approx(every.std(correction=0).item(), abs=1e-5)


def test_reading_again_gives_the_same_digest_and_another_size_another(tmp_path: Path) -> None:
    one, again = (load("digits", image_size=32, data_root=tmp_path) for _ in range(2))
    assert one.test.digest() == again.test.digest()
    assert one.test.digest() != one.train.digest()
    assert one.test.digest() != load("digits", image_size=16, data_root=tmp_path).test.digest()
    relabelled = Split(one.test.pixels, one.test.labels.flip(0), 32)
    assert relabelled.digest() != one.test.digest()


def test_an_image_does_not_depend_on_the_images_read_with_it(tmp_path: Path) -> None:
    test = load("digits", image_size=20, data_root=tmp_path).test
    assert torch.equal(test.images(torch.tensor([5, 9, 2]))[1], test.images(torch.tensor([9]))[0])


def test_the_attacked_samples_are_balanced_and_fewer_are_a_prefix_of_more() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    order = balanced_indices(labels, 9).tolist()
    assert order == [0, 4, 6, 1, 5, 7, 2, 8, 3]
    assert balanced_indices(labels, 4).tolist() == order[:4]
    with pytest.raises(InvalidSpecification, match="has 9 samples"):
        balanced_indices(labels, 10)


def write_idx(path: Path, array: np.ndarray, *, packed: bool) -> None:
    """The format of MNIST: two zero bytes, the type (8: bytes), the number of dimensions, the dimensions, the bytes."""
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        with gzip.open(path.with_name(path.name + ".gz"), "wb") as file:
            file.write(content)
    else:
        path.write_bytes(content)


def write_mnist(folder: Path, *, packed: bool = True) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28))
    for prefix, part in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images[part], packed=packed)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(30)[part] % 10, packed=packed)
    return images


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads go to a port that refuses them at once, and the machine has no dataset of its own."""
    monkeypatch.setattr("attack_service.datasets._DEBIAN_FASHION_MNIST", tmp_path / "not installed")
    refused = "http://127.0.0.1:9/"
    for reader in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(reader, "mirrors", [refused])
    for reader in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        monkeypatch.setattr(reader, "url", refused + "cifar.tar.gz")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_files_are_read_packed_or_not(tmp_path: Path, name: str, folder: str, packed: bool) -> None:
    images = write_mnist(tmp_path / folder / "raw", packed=packed)
    dataset = load(name, image_size=28, data_root=tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.channel_count) == (20, 10, 1)
    assert torch.equal(dataset.train.images(torch.tensor([3]))[0, 0], torch.from_numpy(images[3]).float() / 255)
    assert dataset.test.labels.tolist() == list(range(10))


def test_a_truncated_mnist_file_is_refused_with_its_folder(tmp_path: Path, no_network: None) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder, packed=False)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetUnavailable, match=f"cannot read or download mnist.*into {folder}"):
        load("mnist", image_size=28, data_root=tmp_path)


def test_a_truncated_packed_file_is_refused_and_leaves_nothing_half_unpacked(tmp_path: Path, no_network: None) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetUnavailable, match="cannot read or download mnist"):
        load("mnist", image_size=28, data_root=tmp_path)
    assert not (folder / "train-images-idx3-ubyte").exists()


def test_images_and_labels_of_different_number_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder, packed=False)
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(19) % 10, packed=False)
    with pytest.raises(DatasetUnavailable, match="20 images but 19 labels"):
        load("mnist", image_size=28, data_root=tmp_path)


def test_labels_of_another_dataset_are_refused(tmp_path: Path) -> None:
    """EMNIST's files have the names and the format of MNIST's."""
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder, packed=False)
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(20), packed=False)
    with pytest.raises(DatasetUnavailable, match="has the label 19, but 10 classes; it is another dataset"):
        load("mnist", image_size=28, data_root=tmp_path)


def test_workers_that_unpack_the_same_files_at_once_do_not_disturb_each_other(tmp_path: Path, no_network: None) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    program = (
        "import sys; from pathlib import Path; from attack_service.datasets import load\n"
        "assert len(load('mnist', image_size=28, data_root=Path(sys.argv[1])).train) == 20"
    )
    workers = [subprocess.Popen([sys.executable, "-c", program, tmp_path]) for _ in range(3)]
    assert [worker.wait(300) for worker in workers] == [0, 0, 0]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_missing_files_that_cannot_be_downloaded_name_the_place_to_put_them(
    tmp_path: Path, no_network: None, name: str
) -> None:
    with pytest.raises(
        DatasetUnavailable, match=f"cannot read or download {name}.*put .* into {tmp_path}.*--data-root"
    ):
        load(name, image_size=32, data_root=tmp_path)


def write_cifar(
    root: Path, reader: type[torchvision.datasets.CIFAR10], monkeypatch: pytest.MonkeyPatch, label_key: str
) -> np.ndarray:
    """A small dataset in the format of CIFAR, whose digests torchvision is told instead of those of the real one."""
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    data = np.random.default_rng(1).integers(0, 256, (10, 3072)).astype(np.uint8)

    def write(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for attribute in ("train_list", "test_list"):
        entries = getattr(reader, attribute)
        digests = [[name, write(name, {"data": data, label_key: list(range(10))})] for name, _ in entries]
        monkeypatch.setattr(reader, attribute, digests)
    meta = dict(reader.meta)
    meta["md5"] = write(meta["filename"], {meta["key"]: [f"class {n}" for n in range(10)]})
    monkeypatch.setattr(reader, "meta", meta)
    return data


@pytest.mark.parametrize(
    ("name", "reader", "label_key", "class_count", "batch_count"),
    [
        ("cifar10", torchvision.datasets.CIFAR10, "labels", 10, 5),
        ("cifar100", torchvision.datasets.CIFAR100, "fine_labels", 100, 1),
    ],
)
def test_cifar_files_are_read_as_colour_images(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reader,
    label_key: str,
    class_count: int,
    batch_count: int,
) -> None:
    data = write_cifar(tmp_path, reader, monkeypatch, label_key)
    dataset = load(name, image_size=32, data_root=tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (10 * batch_count, 10)
    assert (dataset.class_count, dataset.channel_count) == (class_count, 3)
    expected = torch.from_numpy(data[4].reshape(3, 32, 32)).float() / 255
    assert torch.equal(dataset.test.images(torch.tensor([4]))[0], expected)


def test_a_cifar_file_with_another_digest_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    write_cifar(tmp_path, torchvision.datasets.CIFAR10, monkeypatch, "labels")

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DatasetUnavailable, match="cannot read or download cifar10"):
        load("cifar10", image_size=32, data_root=tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_a_system_wide_fashion_mnist_is_unpacked_into_the_data_root(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "system")
    monkeypatch.setattr("attack_service.datasets._DEBIAN_FASHION_MNIST", tmp_path / "system")
    assert len(load("fashion-mnist", image_size=28, data_root=tmp_path / "data").test) == 10


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_fashion_mnist_of_debian_is_found_without_a_download(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attack_service.datasets._DEBIAN_FASHION_MNIST", DEBIAN_FASHION_MNIST)
    dataset = load("fashion-mnist", image_size=32, data_root=tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.channel_count) == (60_000, 10_000, 1)
    assert torch.equal(dataset.test.labels.bincount(), torch.full((10,), 1000))


def write_images(folder: Path, count: int, mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(count)
    for number in range(count):
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
        Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8)).save(folder / f"{number:03}.png")


def test_a_folder_of_classes_is_split_and_every_fifth_image_is_a_test_sample(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 10)
    write_images(tmp_path / "dog", 7, size=(30, 50))
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    dataset = load(f"imagefolder:{tmp_path}", image_size=8, data_root=tmp_path)
    assert (dataset.class_count, dataset.channel_count) == (2, 3)
    assert dataset.train.labels.bincount().tolist() == [8, 5]
    assert dataset.test.labels.bincount().tolist() == [2, 2]
    assert dataset.train.images(torch.arange(13)).shape == (13, 3, 8, 8)


def test_a_folder_with_train_and_test_keeps_them_and_grey_images_stay_grey(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 2)):
        for name in ("one", "two", "three"):
            write_images(tmp_path / part / name, count, mode="L")
    dataset = load(f"imagefolder:{tmp_path}", image_size=10, data_root=tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.class_count, dataset.channel_count) == (12, 6, 3, 1)


def test_grey_images_among_coloured_ones_become_coloured(tmp_path: Path) -> None:
    write_images(tmp_path / "grey", 5, mode="L", size=(8, 8))
    write_images(tmp_path / "colour", 5, size=(8, 8))
    dataset = load(f"imagefolder:{tmp_path}", image_size=8, data_root=tmp_path)
    assert dataset.channel_count == 3
    grey = dataset.test.images(torch.tensor([1]))[0]
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_grey_images_of_16_bits_keep_their_shades(tmp_path: Path, suffix: str) -> None:
    shades = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    for name in ("a/1", "a/2", "b/1", "b/2"):
        path = (tmp_path / name).with_suffix(suffix)
        path.parent.mkdir(exist_ok=True)
        if suffix == ".pgm":
            path.write_bytes(b"P5 8 8 65535\n" + shades.astype(">u2").tobytes())
        else:
            Image.fromarray(shades).save(path)
    dataset = load(f"imagefolder:{tmp_path}", image_size=8, data_root=tmp_path)
    assert dataset.channel_count == 1
    expected = torch.from_numpy(shades.astype(np.float32) / 65535)
    assert torch.allclose(dataset.test.images(torch.tensor([0]))[0, 0], expected, atol=1 / 255)


def test_an_image_of_floating_point_numbers_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 3)
    write_images(tmp_path / "b", 3)
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "b" / "002.tif")
    with pytest.raises(DatasetUnavailable, match=r"002\.tif is not an image that can be read .*save it with 8 or 16"):
        load(f"imagefolder:{tmp_path}", image_size=8, data_root=tmp_path)


def test_a_file_whose_name_is_not_text_can_be_named_on_the_wire(tmp_path: Path) -> None:
    write_images(tmp_path / "ä folder" / "a", 3)
    write_images(tmp_path / "ä folder" / "b", 3)
    Path(os.fsdecode(os.fsencode(tmp_path / "ä folder" / "a") + b"/\xff.png")).write_bytes(b"no image")
    with pytest.raises(DatasetUnavailable, match=r"ä folder/a/\?\.png is not an image") as caught:
        load(f"imagefolder:{tmp_path}/ä folder", image_size=8, data_root=tmp_path)
    str(caught.value).encode()


def test_unusable_folders_say_what_is_wrong(tmp_path: Path) -> None:
    def refusal(root: Path) -> str:
        with pytest.raises(DatasetUnavailable) as caught:
            load(f"imagefolder:{root}", image_size=8, data_root=tmp_path)
        return str(caught.value)

    assert "is not a folder" in refusal(tmp_path / "nowhere")
    assert "cannot find ~nobody-of-this-name/images" in refusal(Path("~nobody-of-this-name/images"))
    one = tmp_path / "one"
    write_images(one / "only", 3)
    assert "has 1 class folders; a classifier needs at least two" in refusal(one)
    (one / "empty").mkdir()
    assert "empty holds no image" in refusal(one)
    write_images(one / "empty", 1)
    assert "empty holds one image" in refusal(one)
    broken = tmp_path / "broken"
    write_images(broken / "a", 3)
    write_images(broken / "b", 3)
    content = (broken / "b" / "001.png").read_bytes()
    (broken / "b" / "001.png").write_bytes(content[: len(content) // 2])
    assert "001.png is not an image that can be read" in refusal(broken)
    differing = tmp_path / "differing"
    for folder in ("train/a", "train/b", "test/a", "test/c"):
        write_images(differing / folder, 2)
    assert "do not have the same classes: b, c" in refusal(differing)

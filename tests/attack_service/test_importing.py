"""A model of the user's own is checked before it is attacked, and what is wrong with it is named."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attack_service.datasets import Dataset, Split
from attack_service.errors import CheckpointInvalid, UnknownName
from attack_service.importing import Brought, bring, fetch, require_sound
from attack_service.jobs import AttackSpec
from attack_service.models import Architecture, build

CPU = torch.device("cpu")


def dataset_of(class_count: int = 3, channel_count: int = 1) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(12, channel_count, 16, 16, generator=generator)
    split = Split(pixels, torch.arange(12) % class_count, image_size=16)
    return Dataset(split, split, class_count)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A ResNet-18's own, for grey images of three classes, as torchvision names them."""
    torch.manual_seed(0)
    tensors = build(Architecture("resnet18", "imagenet", 1, 3)).state_dict()
    return {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}


@pytest.fixture
def brought(tmp_path: Path) -> Callable[..., Brought]:
    def bring_file(tensors: dict[str, Any], dataset: Dataset | None = None, **fields: Any) -> Brought:
        torch.save(tensors, tmp_path / "own.pt")
        asked = {"model": "resnet18", "dataset": "own", "attack": "pgd", "stem": "imagenet", "image_size": 16}
        spec = AttackSpec(**(asked | {"checkpoint": str(tmp_path / "own.pt")} | fields))
        return bring(spec, dataset or dataset_of(), CPU)

    return bring_file


def test_weights_in_torchvisions_layout_take_the_datasets_normalisation_and_say_so(brought, weights) -> None:
    own, dataset = brought(weights), dataset_of()
    mean, deviation = dataset.channel_statistics()
    assert torch.equal(own.model.mean.flatten(), mean)
    assert torch.equal(own.model.deviation.flatten(), deviation)
    (warning,) = own.warnings
    assert "does not say how its images were normalised" in warning
    assert f"{mean.item():.3f}" in warning
    require_sound(own, dataset.test, 3, CPU)


def test_weights_in_our_layout_bring_their_normalisation(brought, weights) -> None:
    ours = {f"network.{name}": tensor for name, tensor in weights.items()}
    ours |= {"mean": torch.full((1, 1, 1, 1), 0.25), "deviation": torch.full((1, 1, 1, 1), 2.0)}
    own = brought(ours)
    assert (own.model.mean.item(), own.model.deviation.item(), own.warnings) == (0.25, 2.0, ())
    with pytest.raises(CheckpointInvalid, match="lacks mean"):
        brought({name: tensor for name, tensor in ours.items() if name != "mean"})
    with pytest.raises(CheckpointInvalid, match="a deviation of 0"):
        brought(ours | {"deviation": torch.zeros(1, 1, 1, 1)})


def test_old_checkpoints_without_the_count_of_batches_are_taken(brought, weights) -> None:
    brought({name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")})


@pytest.mark.parametrize(
    ("change", "fields", "dataset", "said"),
    [
        ({}, {}, dataset_of(class_count=4), r"tells 3 classes apart \(network\.fc\.weight\), but the dataset has 4"),
        ({}, {}, dataset_of(channel_count=3), r"takes images of 1 channels \(network\.conv1\.weight\), but the .* 3"),
        ({}, {"stem": "cifar"}, None, "has the stem imagenet .* give --stem imagenet"),
        ({}, {"model": "resnet34"}, None, r"lacks network\.layer1\.2\.conv1\.weight; .* --model that it was trained"),
        ({"extra.weight": torch.ones(1)}, {}, None, r"has network\.extra\.weight, which resnet18 has not"),
        (
            {"layer2.0.conv1.weight": torch.ones(128, 64, 1, 1)},
            {},
            None,
            r"layer2\.0\.conv1\.weight of shape \(128, 64",
        ),
        ({"bn1.bias": torch.ones(64, dtype=torch.int64)}, {}, None, r"network\.bn1\.bias of shape \(64,\) and int64"),
        ({"bn1.bias": torch.full((64,), float("nan"))}, {}, None, r"values in network\.bn1\.bias that are not finite"),
        ({"fc.bias": torch.tensor([0.0, float("inf"), 0])}, {}, None, r"values in network\.fc\.bias that are not"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_its_first_wrong_tensor(
    brought, weights, change: dict[str, Tensor], fields: dict[str, Any], dataset: Dataset | None, said: str
) -> None:
    with pytest.raises(CheckpointInvalid, match=said):
        brought(weights | change, dataset, **fields)


class Answer(nn.Module):
    """Answers with whatever a function makes of the images' means, a column a class."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.make = make

    def forward(self, images: Tensor) -> Any:
        return self.make(self.scale * images.flatten(1)[:, :3])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x[:, :2], r"logits of shape \(8, 2\), but the dataset has 3 classes"),
        (lambda x: x[:4], r"logits of shape \(4, 3\)"),
        (lambda x: x.sum(), r"with float32 of shape \(\); it must return \(n, classes\) logits"),
        (lambda x: (10 * x).round().long(), r"with int64 of shape \(8, 3\)"),
        (lambda x: {"logits": x}, "with dict; it must return"),
        (lambda x: x / 0.0, "with logits that are not finite"),
        (lambda x: x + torch.randn(8 if len(x) == 8 else 1, 3), "answers the same images differently each time"),
        (lambda x: x - x.mean(dim=0), "answers an image differently beside other images"),
        (lambda x: x.detach(), "no gradient flows from the logits"),
        (lambda x: (x - x).sqrt() + x, "gradients of .* are not finite"),
        (lambda x: x @ torch.ones(7, 3), "cannot classify images of shape"),
    ],
)
def test_a_model_that_does_not_answer_as_a_classifier_is_refused(make: Any, said: str) -> None:
    with pytest.raises(CheckpointInvalid, match=said):
        require_sound(Brought(Answer(make).eval(), "0", "the model"), dataset_of().test, 3, CPU)


def test_probabilities_in_place_of_logits_are_warned_of() -> None:
    def odd(make: Callable[[Tensor], Tensor]) -> tuple[str, ...]:
        return require_sound(Brought(Answer(make).eval(), "0", "the model"), dataset_of().test, 3, CPU)

    assert odd(lambda x: x) == odd(lambda x: x.log_softmax(dim=1)) == ()
    (said,) = odd(lambda x: x.softmax(dim=1))
    assert "answer with probabilities in place of logits" in said


def test_weights_that_are_not_finite_are_refused_whatever_they_answer() -> None:
    model = Answer(lambda x: x)
    model.register_buffer("unused", torch.tensor(float("nan")))
    with pytest.raises(CheckpointInvalid, match="values in unused that are not finite"):
        require_sound(Brought(model.eval(), "0", "the model"), dataset_of().test, 3, CPU)


def test_torchvisions_weights_must_exist_and_tell_the_datasets_classes_apart(brought, weights) -> None:
    with pytest.raises(UnknownName, match="unknown weights of resnet18 'IMAGENET1K_V9'; known: IMAGENET1K_V1"):
        brought(weights, weights="IMAGENET1K_V9")
    with pytest.raises(CheckpointInvalid, match="tell 1000 classes apart, but the dataset has 3"):
        brought(weights, weights="IMAGENET1K_V1")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of files, its address and its folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "web"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def test_weights_are_downloaded_once_and_checked_by_their_name(web: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = web
    digest = hashlib.sha256(b"weights").hexdigest()
    name = f"net-{digest[:8]}.pth"
    (folder / name).write_bytes(b"weights")
    hub = tmp_path / "hub"
    assert fetch(f"{address}/{name}", hub).digest == digest
    (folder / name).unlink()
    assert fetch(f"{address}/{name}", hub).content == b"weights"
    (hub / name).write_bytes(b"damaged")
    with pytest.raises(CheckpointInvalid, match="is damaged: its SHA-256 does not begin as its name says"):
        fetch(f"{address}/{name}", hub)


def test_without_a_network_the_error_says_where_to_put_the_file(web: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = web
    with pytest.raises(CheckpointInvalid, match=r"cannot download .*net-01234567\.pth .* put the file into .*hub on"):
        fetch(f"{address}/net-01234567.pth", tmp_path / "hub")
    with pytest.raises(CheckpointInvalid, match=r"cannot download .* put the file into"):
        fetch("http://127.0.0.1:1/net-01234567.pth", tmp_path / "hub")


def test_a_program_is_brought_with_the_digest_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).eval()
    free = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(model, (torch.rand(2, 1, 16, 16),), dynamic_shapes=free), str(path))
    spec = AttackSpec(model="program", dataset="own", attack="pgd", program=str(path))
    own = bring(spec, dataset_of(), CPU)
    assert own.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    require_sound(own, dataset_of().test, 3, CPU)
    with pytest.raises(CheckpointInvalid, match=r"cannot classify images of shape \(3, 16, 16\)"):
        require_sound(own, dataset_of(channel_count=3).test, 3, CPU)

"""Exported programs are loaded as data: nothing that an archive holds is unpickled, imported, called or evaluated."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attack_service.errors import CheckpointInvalid
from attack_service.models import freeze
from attack_service.programs import _harmless_expression, load_program
from attack_service.weight_files import UserFile, read

CPU = torch.device("cpu")
GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
SAMPLES = "data/sample_inputs/model.pt"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 6 * 6, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(torch.relu(self.norm(self.conv(images))).flatten(1))


class Touch:
    """What a pickle would run: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def export(model: nn.Module, path: Path, **options: Any) -> Path:
    torch.export.save(torch.export.export(model.eval(), (torch.rand(2, 1, 8, 8),), **options), str(path))
    return path


FREE = {"dynamic_shapes": ({0: torch.export.Dim("n")},)}


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def archive(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(net, tmp_path_factory.mktemp("program") / "net.pt2", **FREE)


def changed(archive: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with its entries, by their path below the one folder, changed."""
    with zipfile.ZipFile(archive) as source:
        root = source.namelist()[0].partition("/")[0]
        entries = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as written:
        for name, content in entries.items():
            written.writestr(f"{root}/{name}", content)
    return target


def in_json(name: str, change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def change_entry(entries: dict[str, bytes]) -> None:
        value = json.loads(entries[name])
        change(value)
        entries[name] = json.dumps(value).encode()

    return change_entry


def pickled(path: Path) -> bytes:
    written = io.BytesIO()
    torch.save(Touch(path), written)
    return written.getvalue()


def test_a_program_computes_what_was_exported_and_gradients_flow(net: Net, archive: Path) -> None:
    program = load_program(read(str(archive)), CPU)
    images = torch.rand(5, 1, 8, 8, requires_grad=True)
    assert torch.allclose(program(images), net(images), atol=1e-5)
    frozen = freeze(program, CPU)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    (ours,) = torch.autograd.grad(frozen(images).sum(), images)
    (theirs,) = torch.autograd.grad(net(images).sum(), images)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not frozen.train().training


def pickled_weight(marker: Path) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        config = json.loads(entries[WEIGHTS])
        first = next(iter(config["config"].values()))
        first["use_pickle"] = True
        entries[WEIGHTS] = json.dumps(config).encode()
        entries[f"data/weights/{first['path_name']}"] = pickled(marker)

    return change


def pickled_samples(marker: Path) -> Callable[[dict[str, bytes]], None]:
    return lambda entries: entries.update({SAMPLES: pickled(marker)})


def evaluated_shape(marker: Path) -> Callable[[dict[str, bytes]], None]:
    def change(graph: Any) -> None:
        values = graph["graph_module"]["graph"]["tensor_values"].values()
        size = next(s for value in values for s in value["sizes"] if "as_expr" in s)
        size["as_expr"]["expr_str"] = f"open('{marker}', 'w')"

    return in_json(GRAPH, change)


@pytest.mark.parametrize("hostile", [pickled_weight, pickled_samples, evaluated_shape])
@pytest.mark.filterwarnings("ignore")
def test_a_hostile_program_is_refused_and_nothing_of_it_is_run(archive: Path, tmp_path: Path, hostile: Any) -> None:
    marker = tmp_path / "marker"
    path = changed(archive, tmp_path / "hostile.pt2", hostile(marker))
    with pytest.raises(CheckpointInvalid, match=r"hostile\.pt2.*nothing of it was run"):
        load_program(read(str(path)), CPU)
    assert not marker.exists()
    # And it is one: torch itself runs what is in it.
    with contextlib.suppress(Exception):
        torch.export.load(str(path))
    assert marker.exists()


def first_node(**fields: Any) -> Callable[[dict[str, bytes]], None]:
    return in_json(GRAPH, lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(fields))


COMMAND = [{"name": "command", "arg": {"as_string": "true"}, "kind": 1}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (first_node(target="torch.os.system", inputs=COMMAND), "calls 'torch.os.system'"),
        (first_node(target="torch.ops.aten.from_file.default"), "calls 'torch.ops.aten.from_file.default'"),
        (first_node(target="torch.ops.aten._print.default"), "calls 'torch.ops.aten._print.default'"),
        (first_node(target="#extension:x"), "calls '#extension:x'"),
        (first_node(name="x): import os #"), "has 'x.*' as a name"),
        (first_node(name="lambda"), "has 'lambda' as a name"),
        (first_node(inputs=[{"name": "input", "arg": {"as_operator": "torch.os.system"}, "kind": 1}]), "as_operator"),
        (first_node(inputs=[{"name": "input", "arg": {"as_graph": {}}, "kind": 1}]), "as_graph"),
        (lambda entries: entries.pop(GRAPH), "is no archive that torch.export.save"),
        (lambda entries: entries.update({GRAPH: b"{"}), "is no archive that torch.export.save"),
        (lambda entries: entries.update({GRAPH: b"[" * 100_000}), "is no archive that torch.export.save"),
        (lambda entries: entries.update({"archive_version": b"../.."}), "as archive_version"),
        (
            in_json(WEIGHTS, lambda config: next(iter(config["config"].values())).update(path_name="../../etc/passwd")),
            "as a pickle",
        ),
    ],
)
def test_what_is_no_part_of_a_network_is_named(archive: Path, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(CheckpointInvalid, match=said):
        load_program(read(str(changed(archive, tmp_path / "odd.pt2", change))), CPU)


def test_other_files_are_no_programs(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04", b"\x80\x04."):
        with pytest.raises(CheckpointInvalid, match=r"is no archive that torch\.export\.save"):
            load_program(UserFile(tmp_path / "x.pt2", content), CPU)


def test_an_archive_that_would_unpack_to_more_than_it_is_is_refused(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("x/models/model.json", b" " * 10_000_000)
    with pytest.raises(CheckpointInvalid, match="is compressed"):
        load_program(read(str(path)), CPU)


def test_sample_inputs_that_would_unpack_to_more_than_they_are_are_refused(archive: Path, tmp_path: Path) -> None:
    def compress(entries: dict[str, bytes]) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as written:
            written.writestr("model/data/0", b" " * 10_000_000)
        entries[SAMPLES] = packed.getvalue()

    with pytest.raises(CheckpointInvalid, match="has compressed sample inputs"):
        load_program(read(str(changed(archive, tmp_path / "bomb.pt2", compress))), CPU)


class TwoInputs(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other


def test_a_program_for_one_size_of_batch_says_how_to_export_it(net: Net, tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match=r"takes batches of 2 images only; export it with dynamic_shapes"):
        load_program(read(str(export(net, tmp_path / "fixed.pt2"))), CPU)


def test_a_program_with_two_inputs_is_refused(tmp_path: Path) -> None:
    images = torch.rand(2, 1, 8, 8)
    torch.export.save(torch.export.export(TwoInputs(), (images, images)), str(tmp_path / "two.pt2"))
    with pytest.raises(CheckpointInvalid, match="takes 2 inputs; export a module that takes one"):
        load_program(read(str(tmp_path / "two.pt2")), CPU)


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("s77", True),
        ("Symbol('s77', positive=True, integer=True)", True),
        ("Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(1))", True),
        ("((s0 - 1)//2) + 1", True),
        ("s0**2", True),
        ("exec('x')", False),
        ("open('/tmp/x', 'w')", False),
        ("Symbol('os')", False),
        ("().__class__", False),
        ("exit()", False),
        ("9**9**9**9", False),
        ("9**(9**9)", False),
        ("Pow(9, Pow(9, Pow(9, 9)))", False),
        ("s0'", False),
    ],
)
def test_a_symbolic_shape_is_symbols_and_numbers(text: str, harmless: bool) -> None:
    assert _harmless_expression(text) is harmless


def test_loading_says_nothing_on_the_side(archive: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_program(read(str(archive)), CPU)

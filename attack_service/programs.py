"""Programs of `torch.export`: read as data, never as code.

`torch.export.load` unpickles whatever the archive says is pickled (weights, constants, the sample inputs when their
safe reading fails), calls any function of torch that the graph names, `torch.os.system` among them, and evaluates the
strings of its symbolic shapes. So nothing of the user's archive reaches it: its graph and its tensors are looked
through here, against a list of what may be there, and written into a new archive, which is then loaded.
"""

from __future__ import annotations

import io
import json
import keyword
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attack_service.errors import CheckpointInvalid
from attack_service.weight_files import UserFile, inflates

_GRAPH = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_CONFIGS = {
    "data/weights/model_weights_config.json": "data/weights/",
    "data/constants/model_constants_config.json": "data/constants/",
}

# What says that the archive is one, and of which layout.
_MARKS = {
    "archive_format": rb"pt2",
    "archive_version": rb"\d{1,4}",
    "byteorder": rb"little",
    ".data/version": rb"\d{1,4}\n?",
}

_ATEN = re.compile(r"torch\.ops\.aten\.([a-z][a-z0-9_]*|_[a-z0-9_]+)\.[A-Za-z0-9_]+")
# Operators on numbers, which shapes are computed with.
_SCALAR = re.compile(r"_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge)|torch\.sym_int")
# Of aten's inner operators those that exported networks consist of; no other, nor one that opens files.
_INNER = frozenset({
    "_adaptive_avg_pool2d", "_assert_scalar", "_assert_tensor_metadata", "_log_softmax", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "_safe_softmax", "_scaled_dot_product_attention", "_softmax", "_to_copy",
    "_unsafe_view", "_unsafe_index", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
})  # fmt: skip
_FORBIDDEN = frozenset({"from_file", "set_data", "record_stream"})
_ARGUMENTS = frozenset({
    "as_none", "as_tensor", "as_tensors", "as_nested_tensors", "as_optional_tensor", "as_optional_tensors", "as_int",
    "as_ints", "as_int_lists", "as_float", "as_floats", "as_string", "as_strings", "as_sym_int", "as_sym_ints",
    "as_sym_float", "as_sym_floats", "as_sym_bool", "as_sym_bools", "as_bool", "as_bools", "as_scalar_type",
    "as_memory_format", "as_layout", "as_device", "as_expr", "as_name",
})  # fmt: skip
_WORD = re.compile(r"[\w.\-,>:+ <=()]{0,300}")
_NAME = re.compile(r"[A-Za-z_]\w{0,300}")
_SYMBOL = re.compile(r"[su]\d+|zuf\d+")
_EXPRESSION = re.compile(r"[\w ()+\-*/,='<>]{0,1000}")
_EXPRESSION_WORDS = frozenset({
    "Symbol", "Integer", "Add", "Mul", "Pow", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "Max", "Min",
    "IntTrueDiv", "positive", "nonnegative", "integer", "True", "False",
})  # fmt: skip
_STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


class Program(nn.Module):
    """An exported program as a model to attack: always as it was exported, there is no other mode."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        answer: Any = self.module(images)
        # Some networks return their logits in a tuple of one.
        logits: Tensor = answer[0] if isinstance(answer, tuple | list) and len(answer) == 1 else answer
        return logits

    def train(self, mode: bool = True) -> Program:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        # Whoever freezes it has all there is to it; torch copies its graph with a deprecated call.
        return self


def load_program(file: UserFile, device: torch.device) -> Program:
    """The program in a `.pt2` file, on the device.

    Raises `CheckpointInvalid`, having run nothing of the file, if it is no program, holds a pickle, calls what is no
    operator of a network, takes anything but one batch of images, or takes batches of one size only.
    """
    archive = _rewritten(file)
    try:
        exported = torch.export.load(archive)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            exported = move_to_device_pass(exported, device)
        module = exported.module(check_guards=False)
    except Exception as error:
        # What a graph that contradicts itself makes of torch's loader: it raises nearly every kind.
        words = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise _invalid(
            file, f"cannot be loaded by torch {torch.__version__} ({words}); export it with this one"
        ) from error
    _require_one_free_batch(exported, file)
    return Program(module)


def _require_one_free_batch(exported: torch.export.ExportedProgram, file: UserFile) -> None:
    inputs = list(exported.graph_signature.user_inputs)
    if len(inputs) != 1:
        raise _invalid(file, f"takes {len(inputs)} inputs; export a module that takes one, the batch of images")
    shape = next(node.meta["val"].shape for node in exported.graph.nodes if node.name == inputs[0])
    if len(shape) != 4:
        raise _invalid(file, f"takes a tensor of {len(shape)} dimensions, not (n, channels, height, width)")
    if isinstance(shape[0], int):
        raise _invalid(
            file,
            f"takes batches of {shape[0]} images only; export it with dynamic_shapes=({{0: torch.export.Dim('n')}},) "
            "and an example of two images or more",
        )


def _rewritten(file: UserFile) -> io.BytesIO:
    """A new archive with what of the user's may be loaded."""
    try:
        with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
            entries = _entries(archive, file)
            graph = _checked_graph(json.loads(entries[_GRAPH]), file)
            kept: dict[str, bytes] = {_GRAPH: json.dumps(graph).encode(), _SAMPLES: _samples(entries, file)}
            for name, folder in _CONFIGS.items():
                config = json.loads(entries[name])
                kept |= _checked_tensors(config, folder, entries, file)
                kept[name] = json.dumps(config).encode()
            kept |= {name: entries[name] for name in _MARKS}
            for name, pattern in _MARKS.items():
                if re.fullmatch(pattern, kept[name]) is None:
                    raise _invalid(file, f"has {kept[name][:20]!r} as {name}; write it with torch.export.save")
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError, RecursionError, EOFError) as error:
        raise _invalid(
            file,
            f"is no archive that torch.export.save of torch 2.8 or later writes ({type(error).__name__}: {error}); "
            "export it anew with that",
        ) from error
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, content in kept.items():
            archive.writestr(f"program/{name}", content)
    written.seek(0)
    return written


def _entries(archive: zipfile.ZipFile, file: UserFile) -> dict[str, bytes]:
    """The entries by their path below the archive's one folder."""
    if inflates(file.content):
        raise _invalid(file, "is compressed, which torch.export.save does not do")
    entries = {}
    for entry in archive.infolist():
        entries[entry.filename.partition("/")[2]] = archive.read(entry)
    return entries


def _samples(entries: dict[str, bytes], file: UserFile) -> bytes:
    """The sample inputs, read as tensors and written anew: torch would fall back to unpickling."""
    if inflates(entries[_SAMPLES]):
        raise _invalid(file, "has compressed sample inputs, which torch.export.save does not write")
    try:
        loaded = torch.load(io.BytesIO(entries[_SAMPLES]), map_location="cpu", weights_only=True)
    except KeyError:
        raise
    except Exception as error:
        raise _invalid(
            file, "has sample inputs that are not tensors alone; nothing of it was run; export it with a tensor"
        ) from error
    written = io.BytesIO()
    torch.save(loaded, written)
    return written.getvalue()


def _checked_tensors(
    config: dict[str, Any], folder: str, entries: dict[str, bytes], file: UserFile
) -> dict[str, bytes]:
    kept = {}
    for name, payload in config["config"].items():
        path = payload["path_name"]
        if payload["use_pickle"] or payload["tensor_meta"] is None or not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise _invalid(
                file, f"keeps {name[:80]!r} as a pickle; nothing of it was run; export a module of plain tensors"
            )
        _check_strings(payload, file)
        kept[folder + path] = entries[folder + path]
    _check_keys(config["config"], file)
    return kept


def _checked_graph(program: dict[str, Any], file: UserFile) -> dict[str, Any]:
    """The serialized program without what is not needed to run it; every string in the rest is on a list."""
    program["guards_code"] = []
    module = program["graph_module"]
    module["metadata"], module["treespec_namedtuple_fields"] = {}, {}
    # The first entry is the program itself; the others serve to take it apart into modules again.
    module["module_call_graph"] = module["module_call_graph"][:1]
    for entry in module["module_call_graph"]:
        for side in ("in_spec", "out_spec"):
            _check_structure(entry["signature"][side], file)
            entry["signature"][side] = json.dumps(json.loads(entry["signature"][side]))
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}
        _check_target(node["target"], file)
    rest = {**program, "graph_module": {**module, "module_call_graph": []}}
    _check_strings(rest, file)
    for entry in module["module_call_graph"]:
        _check_strings({key: value for key, value in entry["signature"].items() if not key.endswith("_spec")}, file)
    return program


def _check_target(target: str, file: UserFile) -> None:
    aten = _ATEN.fullmatch(target)
    if aten is not None and aten[1] not in _FORBIDDEN and (not aten[1].startswith("_") or aten[1] in _INNER):
        return
    if _SCALAR.fullmatch(target) is None:
        raise _invalid(
            file,
            f"calls {target[:80]!r}, which is not among the operators of a network; nothing of it was run; export "
            "the network alone, in evaluation mode",
        )


def _check_structure(text: str, file: UserFile) -> None:
    """A pytree's structure: nothing but tuples, lists and dicts."""

    def walk(node: dict[str, Any]) -> None:
        if node["type"] not in _STRUCTURES or not re.fullmatch(r'[\w", \[\]]{0,300}', str(node["context"] or "")):
            raise _invalid(file, f"takes or returns a {str(node['type'])[:80]!r}; export a module of plain tensors")
        for child in node["children_spec"]:
            walk(child)

    walk(json.loads(text)[1])


def _check_strings(value: Any, file: UserFile) -> None:
    """Look at every string of serialized data: torch writes its names into Python code and evaluates its shapes."""
    for key, text in _strings(value, ""):
        if key == "expr_str":
            good = _harmless_expression(text)
        elif key == "target":
            continue
        elif key == "name":
            good = text == "" or (_NAME.fullmatch(text) is not None and not keyword.iskeyword(text))
        elif key == "type":
            good = text in ("cpu", "cuda")
        else:
            good = _WORD.fullmatch(text) is not None
        if not good:
            raise _invalid(
                file, f"has {text[:80]!r} as a {key or 'value'}; nothing of it was run; export the network anew"
            )
    _check_keys(value, file)


def _check_keys(value: Any, file: UserFile) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not re.fullmatch(r"[\w.]{0,300}", key) or (key.startswith("as_") and key not in _ARGUMENTS):
                raise _invalid(file, f"has an argument {key[:80]!r}, which no network needs; nothing of it was run")
            _check_keys(inner, file)
        if value.get("type") == "cuda" and "index" in value:
            # Where it was exported is no matter: it is loaded on the CPU and then moved.
            value.update(type="cpu", index=None)
    elif isinstance(value, list):
        for inner in value:
            _check_keys(inner, file)


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every string, with the key it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from _strings(inner, inner_key)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)


def _harmless_expression(text: str) -> bool:
    """Whether a symbolic shape is one: symbols, numbers, and functions of numbers. Sympy evaluates it as Python."""
    if _EXPRESSION.fullmatch(text) is None:
        return False
    if any(_SYMBOL.fullmatch(quoted) is None for quoted in re.findall(r"'([^']*)'", text)) or text.count("'") % 2:
        return False
    # A power of powers would take all memory.
    powers = text.count("**") + text.count("Pow")
    if powers > 1 or (powers and re.search(r"\d{4}", text)):
        return False
    words = re.findall(r"[A-Za-z_]\w*", text)
    return all(word in _EXPRESSION_WORDS or _SYMBOL.fullmatch(word) for word in words)


def _invalid(file: UserFile, what: str) -> CheckpointInvalid:
    return CheckpointInvalid(f"the program {file.path} {what}")

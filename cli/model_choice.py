"""Which model a command attacks or trains: its options, and the fields of a specification that they fill."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.errors import Misuse
from cli.options import seconds, whole
from cli.options import seed as seed_type

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model, as the options name it. Empty and None leave a field to the server."""

    model: str
    weights: str
    checkpoint: str
    program: str
    training_seconds: float | None
    training_samples: int | None
    dataset: str
    stem: str | None
    image_size: int | None
    batch_size: int | None
    epochs: int | None
    seed: int

    def fields(self, *, here: bool) -> dict[str, Any]:
        """The fields of an `AttackSpec`. Raises `Misuse` if the worker is `here`, on this machine, and a file is not.

        Paths are made absolute here: workers have their own working directory.
        """
        return {
            "model": self.model,
            "weights": self.weights,
            "checkpoint": _path("--checkpoint", self.checkpoint, here=here),
            "program": _path("--program", self.program, here=here),
            "training_seconds": self.training_seconds or 0.0,
            "training_sample_count": self.training_samples or 0,
            "dataset": _dataset(self.dataset, here=here),
            "stem": self.stem or "",
            "image_size": self.image_size or 0,
            "batch_size": self.batch_size or 0,
            "epoch_count": self.epochs or 0,
            "seed": self.seed,
        }


def _or_program(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value and not context.params.get("program"):
        raise click.MissingParameter(ctx=context, param=parameter)
    return value


_OPTIONS = (
    click.option("--model", default="", metavar="NAME", callback=_or_program,
                 help="The model, for example resnet50; `afrctl models` lists them.  [required without --program]"),
    click.option("--weights", default="", metavar="NAME",
                 help="Take torchvision's weights of this name, for example IMAGENET1K_V2, instead of training."),
    click.option("--checkpoint", default="", metavar="FILE",
                 help="Take the weights in this .safetensors or .pt file instead of training."),
    # Eager, so that it is known when --model is looked at.
    click.option("--program", default="", metavar="FILE", is_eager=True,
                 help="Take this .pt2 program of torch.export as the model."),
    click.option("--training-seconds", type=seconds, metavar="SECONDS",
                 help="What training such a model of your own cost, in device seconds."),
    click.option("--training-samples", type=whole, metavar="COUNT",
                 help="How many samples such a model of your own was trained on."),
    click.option("--dataset", default="", metavar="NAME",
                 help="The dataset, or imagefolder:PATH; `afrctl datasets` lists them.  [default: digits]"),
    click.option("--stem", type=click.Choice(["imagenet", "cifar"]),
                 help="The first layer: 7x7 with stride 2, or 3x3 with stride 1.  [default: imagenet]"),
    click.option("--image-size", type=whole, metavar="PIXELS",
                 help="The side of the images.  [default: 32, with --weights 224]"),
    click.option("--batch-size", type=whole, metavar="COUNT",
                 help="The most samples at once on the device.  [default: 64]"),
    click.option("--epochs", type=whole, metavar="COUNT",
                 help="How many epochs to train a model that is not in the store, or that your own was trained for."),
    click.option("--seed", type=seed_type, default="0", show_default=True, metavar="NUMBER",
                 help="The seed of training and attack."),
)  # fmt: skip


def model_options(command: F) -> F:
    """The options of a `ModelChoice`, given to the command as `choice`. One of --model and --program is required."""

    @functools.wraps(command)
    def chosen(**values: Any) -> Any:
        choice = ModelChoice(**{name: values.pop(name) for name in ModelChoice.__dataclass_fields__})
        return command(choice=choice, **values)

    decorated: Any = chosen
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _path(option: str, value: str, *, here: bool) -> str:
    if not value or not here:
        return value
    path = Path(value).expanduser().absolute()
    if not path.is_file():
        raise Misuse(f"{option}: {path} is no file; check the path")
    return str(path)


def _dataset(dataset: str, *, here: bool) -> str:
    kind, separator, path = dataset.partition(":")
    if not (separator and path):
        return dataset
    folder = Path(path).expanduser().absolute()
    if here and not folder.is_dir():
        raise Misuse(f"--dataset: {folder} is no folder; give one with a folder of images for each class")
    return f"{kind}:{folder}"

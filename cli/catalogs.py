"""`afrctl models`, `attacks`, `defences`, `datasets`: what the attack server knows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cli.commands import StrictCommand
from cli.options import attack_address
from cli.quantities import NOTHING, count, duration, share
from cli.tables import table

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import ParameterSchema


_ASKS = "Asks the given attack server, that of `afrctl up`, or one started for the question."


def _ask(address: str, method: str, request: str, *, of_stores: bool) -> Any:
    """Call one of the listing methods of the attack server, an own one if there is none."""
    from afr.attack.v1 import attack_service_pb2

    from cli.connecting import attack_server
    from cli.locating import catalogue_server

    with catalogue_server(address, of_stores=of_stores) as found, attack_server(found) as server:
        return server.call(getattr(server.stub, method), getattr(attack_service_pb2, request)())


def _catalogue(
    method: str, request: str, *, of_stores: bool = False
) -> Callable[[Callable[[Any], None]], click.Command]:
    """Make a function that shows what `method` answers into a command that asks for it; its help gets an example.

    `of_stores`: the answer needs a worker, which knows its store.
    """

    def decorate(show: Callable[[Any], None]) -> click.Command:
        def listing(attack_address: str, output_format: str) -> None:
            answer = _ask(attack_address, method, request, of_stores=of_stores)
            if output_format == "table":
                show(answer)
                return
            from google.protobuf.json_format import MessageToJson

            click.echo(MessageToJson(answer, always_print_fields_with_no_presence=True, ensure_ascii=False))

        help_text = f"{show.__doc__}\n\n{_ASKS}\n\n\b\nExample:\n  afrctl {show.__name__}\n"
        choice = click.option(
            "--format",
            "output_format",
            type=click.Choice(["table", "json"]),
            default="table",
            show_default=True,
            help="How to print the list: for people, or as the proto's JSON.",
        )
        return click.command(show.__name__, cls=StrictCommand, help=help_text)(choice(attack_address(listing)))

    return decorate


@_catalogue("ListModels", "ListModelsRequest", of_stores=True)
def models(answer: Any) -> None:
    """List the models, and those in the workers' stores."""
    rows = [(model.name, str(model.depth), model.description) for model in answer.models]
    click.echo(table(("model", "layers", ""), rows, right=(1,)))
    if not answer.trained_models:
        click.echo("\nno trained models in the stores of the workers; `afrctl train` trains one")
        return
    trained = [_trained_row(model.spec, model.model_record, model.create_time) for model in answer.trained_models]
    header = ("trained", "for", "pixels", "stem", "defence", "epochs", "accuracy", "training", "seed", "created (UTC)",
              "digest")  # fmt: skip
    click.echo(f"\n{table(header, trained, right=(2, 5, 6, 7, 8))}")


def _trained_row(spec: Any, record: Any, created: Any) -> tuple[str, ...]:
    return (
        spec.model,
        spec.dataset,
        str(spec.image_size),
        spec.stem,
        spec.defence or "none",
        count(record.epoch_count),
        share(record.clean_accuracy),
        duration(record.training_duration.ToTimedelta().total_seconds()),
        str(spec.seed),
        created.ToDatetime().strftime("%Y-%m-%d %H:%M"),
        record.weights_digest[:12],
    )


@_catalogue("ListAttacks", "ListAttacksRequest")
def attacks(answer: Any) -> None:
    """List the attacks with their parameters."""
    for attack in answer.attacks:
        click.echo(f"{attack.name}  {attack.description}")
        click.echo(f"    norms {', '.join(attack.norms)}; engines {', '.join(attack.engines)}")
        _echo_parameters(attack.parameters)


@_catalogue("ListDefences", "ListDefencesRequest")
def defences(answer: Any) -> None:
    """List the defences with their parameters."""
    for defence in answer.defences:
        click.echo(f"{defence.name}  {defence.description}")
        _echo_parameters(defence.parameters)


@_catalogue("ListDatasets", "ListDatasetsRequest")
def datasets(answer: Any) -> None:
    """List the datasets."""

    def known(value: int) -> str:
        return count(value) if value else NOTHING

    rows = [
        (
            dataset.name, known(dataset.class_count), known(dataset.training_sample_count),
            known(dataset.test_sample_count), known(dataset.channel_count), known(dataset.default_epoch_count),
            dataset.description,
        )
        for dataset in answer.datasets
    ]  # fmt: skip
    header = ("dataset", "classes", "training", "test", "channels", "epochs", "")
    click.echo(table(header, rows, right=(1, 2, 3, 4, 5)))


def _echo_parameters(parameters: Any) -> None:
    for schema in parameters:
        click.echo(f"    {schema.name}: {schema.description} ({_range(schema)})")


def _range(schema: ParameterSchema) -> str:
    kind = "whole number" if schema.integer else "number"
    lower = f"{'above' if schema.minimum_exclusive else 'from'} {schema.minimum:g}"
    upper = "" if math.isinf(schema.maximum) else f" to {schema.maximum:g}"
    unit = f", {schema.unit}" if schema.unit else ""
    default = "default derived" if schema.default_derived else f"default {schema.default_value:g}"
    tried = ", ".join(f"{value:g}" for value in schema.paper_values)
    return f"{kind} {lower}{upper}{unit}; {default}{f'; the paper tried {tried}' if tried else ''}"

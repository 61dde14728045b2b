"""The command `afrctl` with its subcommands, and how each of them ends: a code, at most one line of complaint."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click

from cli.catalogs import attacks, datasets, defences, models
from cli.errors import Interrupted, Problem
from cli.evaluate import evaluate
from cli.fit import fit
from cli.interrupts import interrupts
from cli.jobs import jobs
from cli.plan import plan
from cli.reports import report
from cli.standing import down, status, up
from cli.state import state_folder
from cli.train import train


def _print_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"afrctl {version('afr-robustness')}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Print the version and exit.")  # fmt: skip
def app() -> None:
    """How long does a neural network survive an attacker, and was that robustness worth what it cost?

    Trains or loads a model, attacks it sample by sample, fits accelerated failure models to the times to
    failure, and compares what a failure costs the attacker with what training cost the defender.

    \b
    Example:
      afrctl evaluate --model resnet50 --attack pgd
    """


for _command in (evaluate, train, report, fit, plan, jobs, models, attacks, defences, datasets, up, down, status):
    app.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code: 0, 1 failure, 2 usage, 128 + n after signal n."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows another one; a report is not lost for it.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    interrupts.install()
    try:
        result = app.main(args=list(arguments), prog_name="afrctl", standalone_mode=False)
    except Problem as problem:
        return _complain(str(problem), problem.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "afrctl"
        return _complain(f"{error.format_message().rstrip('.')}; `{path} --help` describes the options", 2)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except Interrupted as interrupt:
        return interrupt.exit_code
    except Exception as error:
        summary = f"{type(error).__name__}: {error}".splitlines()[0]
        return _complain(f"a defect in afrctl: {summary} (the traceback is in {_keep_traceback()})", 1)
    # `--help` and `--version` return their exit code, commands return None.
    return result if isinstance(result, int) else 0


def _complain(message: str, code: int) -> int:
    # The terminal may have been closed.
    with contextlib.suppress(OSError):
        click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def _keep_traceback() -> Path:
    name = f"defect-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    for folder in (state_folder(), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            path.write_text(traceback.format_exc())
        except OSError:
            continue
        return path
    return Path(os.devnull)

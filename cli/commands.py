"""Commands that refuse what click would pass over in silence: options that are empty, or given twice."""

from __future__ import annotations

from collections import Counter

import click


class StrictCommand(click.Command):
    """A command whose options have a value if they are given, and one value unless they may be given several times.

    `--checkpoint "$FILE"` with a variable that is not set would otherwise train a model in place of the one that was
    meant, and of `--defence jpeg --defence high-confidence` the first would be forgotten.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments as click does. Raises `click.UsageError` for an option that is empty or repeated."""
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, times in Counter(given).items():
            if not isinstance(parameter, click.Option) or parameter.is_flag:
                continue
            option = parameter.opts[0]
            if times > 1 and not parameter.multiple:
                raise click.UsageError(f"{option} is given {_times(times)}; give it once", ctx=ctx)
            if values.get(parameter.name or "") == "":
                raise click.UsageError(f"{option} is empty; give a value, or leave the option out", ctx=ctx)
        return super().parse_args(ctx, args)


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"

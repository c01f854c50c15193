"""The command line: one file a verb, thin over the toolkit's modules.

Nothing here imports torch until a verb needs it, so that help and listings answer at once.
"""

from __future__ import annotations

import copy
import io
import re
import signal
import sys
from traceback import print_exc
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import __version__
from ..errors import NoFault, UserError, clipped
from ..faults import describe_error
from .audit import audit
from .check import check
from .data import data
from .describe import describe
from .evaluate import evaluate
from .figures import figures
from .generate import generate
from .list_plugins import list_plugins
from .new_plugin import new_plugin
from .recipes import recipes
from .report import report
from .run import run
from .schema import schema
from .sweep import sweep

if TYPE_CHECKING:
    from ..registry import Part


class Verbs(click.Group):
    """The verbs of this package, and below them those that plugins bring."""

    def list_commands(self, context: click.Context) -> list[str]:
        from ..registry import commands

        return [*super().list_commands(context), *commands().names("command")]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        from ..registry import commands

        if own := super().get_command(context, name):
            return own
        brought = {part.name: part for part in commands().parts("command")}
        try:
            return _guarded(brought[name]) if name in brought else None
        except UserError:
            if context.resilient_parsing:  # a shell that completes has no use for a message
                return None
            raise

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        from ..registry import commands

        parts = commands().parts("command")
        brought = [(p.name, f"broken: {p.error}" if p.error else p.summary) for p in parts]
        room = formatter.width - 6 - max(map(len, self.commands))
        own = [(name, verb.get_short_help_str(room)) for name, verb in self.commands.items()]
        for title, rows in (("Commands", own), ("Commands of plugins", brought)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(sorted(rows))


def _guarded(part: Part) -> click.Command:
    """A plugin's command, of whose errors the command line makes one message that names it."""
    command: click.Command = part.cls
    if part.is_own:
        return command
    command = copy.copy(command)
    invoke = command.invoke

    def guarded(context: click.Context) -> Any:
        try:
            return invoke(context)
        except (UserError, NoFault, click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            raise UserError(
                f"the command {part.name!r} of {part.origin} raised {describe_error(error)}"
            ) from error

    command.invoke = guarded  # type: ignore[method-assign, assignment]
    return command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="xraygan")
@click.option("--traceback", is_flag=True, help="Show the traceback of a user's error too.")
def cli(traceback: bool) -> None:
    """Train GANs on chest X-rays from a recipe.

    \b
    xraygan run quickstart           train, evaluate and report, without any data
    xraygan run recipes/ucgan_full.toml --set data.root=DIR
    xraygan list-plugins             the parts that a recipe can name
    """


for command in (
    run,
    check,
    data,
    evaluate,
    audit,
    generate,
    report,
    figures,
    sweep,
    recipes,
    schema,
    list_plugins,
    describe,
    new_plugin,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line; exit codes: 0 done, 2 the user's input is at fault, 130/143 a signal
    ended the run (it is saved), 1 a defect of ours."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        click.echo(_brief(usage.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except UserError as error:
        if "--traceback" in sys.argv:
            print_exc()
        click.echo(f"xraygan: {_brief(str(error))}", err=True)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        said = " ".join(str(error).split())
        click.echo(
            f"xraygan: not enough memory ({clipped(said, 200)}). Lower what the recipe or the "
            "option asks for, such as run.batch_size, evaluation.generated or a network's width",
            err=True,
        )
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("xraygan: interrupted", err=True)
        sys.exit(128 + signal.SIGINT)
    sys.exit(0)


def _brief(message: str) -> str:
    """A message in which no word is longer than a path: a number may have thousands of digits."""
    return re.sub(r"\S{600,}", lambda word: f"{word[0][:80]}...", message)

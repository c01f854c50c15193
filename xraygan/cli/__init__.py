"""The command line: one file a verb, thin over the toolkit's modules.

Nothing here imports torch until a verb needs it, so that help and listings answer at once.
"""

from __future__ import annotations

import copy
import errno
import faulthandler
import io
import re
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from xraygan._version import __version__
from xraygan.cli.audit import audit
from xraygan.cli.check import check
from xraygan.cli.data import data
from xraygan.cli.describe import describe
from xraygan.cli.evaluate import evaluate
from xraygan.cli.figures import figures
from xraygan.cli.generate import generate
from xraygan.cli.list_plugins import list_plugins
from xraygan.cli.new_plugin import new_plugin
from xraygan.cli.recipes import recipes
from xraygan.cli.report import report
from xraygan.cli.run import run
from xraygan.cli.schema import schema
from xraygan.cli.sweep import sweep
from xraygan.errors import NoFault, UserError, clipped, describe_error
from xraygan.utils.streams import lasting_streams

#: a file or folder that does not take or give what is asked for: no defect of ours
OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM,
)  # fmt: skip

if TYPE_CHECKING:
    from xraygan.parts.registry import Part


class Verbs(click.Group):
    """The verbs of this package, and below them those that plugins bring."""

    def list_commands(self, context: click.Context) -> list[str]:
        from xraygan.parts.registry import commands

        return [*super().list_commands(context), *commands().names("command")]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        from xraygan.parts.registry import commands

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
        from xraygan.parts.registry import commands

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
def cli(**_: bool) -> None:
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
    """Run the command line; exit codes: 0 done, 2 the user's input is at fault, 129/130/143 a
    signal ended the run (it is saved), 1 a defect of ours."""
    with suppress(ValueError, OSError, RuntimeError):  # standard error is no file
        faulthandler.enable()  # a crash below Python, such as SIGBUS, says where it was
    with lasting_streams():
        code = _run()
    sys.exit(code)


def _run() -> int:
    try:
        _need_a_folder()
        code = cli(standalone_mode=False) or 0
        sys.stdout.flush()  # only now is all of it written, or not
        return code
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        click.echo(_brief(usage.getvalue()), err=True, nl=False)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except UserError as error:
        return _said(str(error))
    except (KeyboardInterrupt, click.Abort):
        click.echo("xraygan: interrupted", err=True)
        return 128 + signal.SIGINT
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        return _said(f"{error.filename or 'a file'}: cannot be read or written ({error.strerror})")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        return _said(
            f"not enough memory ({clipped(' '.join(str(error).split()), 200)}). Lower what the "
            "recipe or the option asks for, such as run.batch_size, evaluation.generated or a "
            "network's width"
        )


def _said(message: str) -> int:
    """Say what is at fault; after the traceback, where that is asked for."""
    if "--traceback" in sys.argv:
        traceback.print_exc()
    click.echo(f"xraygan: {_brief(message)}", err=True)
    return 2


def _brief(message: str) -> str:
    """A message in which no word is longer than a path: a number may have thousands of digits."""
    return re.sub(r"\S{600,}", lambda word: f"{word[0][:80]}...", message)


def _need_a_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(
            f"the current folder is gone or cannot be read ({error.strerror}); change to another"
        ) from None

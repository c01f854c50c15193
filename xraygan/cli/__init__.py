"""The command line: one file for each command, thin over the toolkit's modules.

No module here imports torch until a command needs it, so help and listings answer at once.
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
from xraygan.cli.utility import utility
from xraygan.cli.verify import verify
from xraygan.errors import NoFault, UserError, clipped, describe_error
from xraygan.utils.streams import tolerant_streams

#: errors of a file or folder that cannot be read or written: not a defect of the toolkit
DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM,
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
)  # fmt: skip

if TYPE_CHECKING:
    from xraygan.parts.registry import Part


class Commands(click.Group):
    """The commands of this package, followed by those of plugins."""

    def list_commands(self, context: click.Context) -> list[str]:
        from xraygan.parts.registry import commands

        return [*super().list_commands(context), *commands().names("command")]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        from xraygan.parts.registry import commands

        if builtin := super().get_command(context, name):
            return builtin
        parts = {part.name: part for part in commands().parts("command")}
        try:
            return _with_plugin_errors(parts[name]) if name in parts else None
        except UserError:
            if context.resilient_parsing:  # shell completion cannot show a message
                return None
            raise

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        from xraygan.parts.registry import commands

        parts = commands().parts("command")
        of_plugins = [(p.name, f"broken: {p.error}" if p.error else p.summary) for p in parts]
        width = formatter.width - 6 - max(map(len, self.commands))
        builtin = [(name, c.get_short_help_str(width)) for name, c in self.commands.items()]
        for title, rows in (("Commands", builtin), ("Commands of plugins", of_plugins)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(sorted(rows))


def _with_plugin_errors(part: Part) -> click.Command:
    """The command of a plugin, whose exceptions become one message that names the plugin."""
    command: click.Command = part.cls
    if part.is_own:
        return command
    command = copy.copy(command)
    invoke = command.invoke

    def invoke_guarded(context: click.Context) -> Any:
        try:
            return invoke(context)
        except (UserError, NoFault, click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            raise UserError(
                f"the command {part.name!r} of {part.origin} raised {describe_error(error)}"
            ) from error

    command.invoke = invoke_guarded  # type: ignore[method-assign, assignment]
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="xraygan")
@click.option("--traceback", is_flag=True, help="Also show the traceback of a user's error.")
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
    utility,
    verify,
    recipes,
    schema,
    list_plugins,
    describe,
    new_plugin,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line.

    Exit codes: 0 success; 1 a defect of the toolkit, or a difference that ``verify`` found; 2 a
    fault in the user's input; 129, 130 and 143 a signal ended the run, which is saved.
    """
    with suppress(ValueError, OSError, RuntimeError):  # standard error is not a file
        faulthandler.enable()  # print where a crash below Python, such as SIGBUS, happened
    with tolerant_streams():
        code = _run()
    sys.exit(code)


def _run() -> int:
    try:
        _check_current_folder()
        code = cli(standalone_mode=False) or 0
        sys.stdout.flush()  # an error of the last write shows only now
        return code
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(usage)
        click.echo(_shorten_words(usage.getvalue()), err=True, nl=False)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except UserError as error:
        return _report_error(str(error))
    except (KeyboardInterrupt, click.Abort):
        click.echo("xraygan: interrupted", err=True)
        return 128 + signal.SIGINT
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        name = error.filename or "a file"
        return _report_error(f"{name}: cannot be read or written ({error.strerror})")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        return _report_error(
            f"not enough memory ({clipped(' '.join(str(error).split()), 200)}). Lower the recipe's "
            "or the option's value, such as run.batch_size, evaluation.generated or a network's "
            "width"
        )


def _report_error(message: str) -> int:
    """Print a user's error, after its traceback with ``--traceback``; returns the exit code."""
    if "--traceback" in sys.argv:
        traceback.print_exc()
    click.echo(f"xraygan: {_shorten_words(message)}", err=True)
    return 2


def _shorten_words(message: str) -> str:
    """A message with words longer than any path cut short: numbers may have thousands of digits."""
    return re.sub(r"\S{600,}", lambda word: f"{word[0][:80]}...", message)


def _check_current_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(
            f"the current folder no longer exists or cannot be read ({error.strerror}); change to "
            "another folder"
        ) from None

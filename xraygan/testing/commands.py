"""Checks of commands that plugins provide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from xraygan.errors import UserError, describe_error

from .checks import Blocks, expect


def check_command(command: click.Command, *arguments: str) -> list[str]:
    """Check a command.

    The command and its subcommands are click commands with a help text, whose first line fits a
    list. Every option has a help text. A command with an argument RUN refuses a folder that is not
    a run with one message that names it, and does not change the folder.

    Args:
        arguments: the arguments that the command needs besides the run.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Blocks(getattr(command, "name", None) or repr(command))
    with checks("kind"):
        expect(isinstance(command, click.Command), f"not a click command: {command!r}")
    checks.stop_if_failed()
    checks.expect_summary(command, "xraygan --help")
    for path, subcommand in _with_subcommands(command):
        with checks("help"):
            expect(bool(subcommand.get_short_help_str()), f"{path} has no help")
        with checks("options"):
            for option in subcommand.params:
                documented = not isinstance(option, click.Option) or option.hidden or option.help
                expect(bool(documented), f"{path} {option.opts[0]} has no help")
    if any(parameter.metavar == "RUN" for parameter in command.params):
        with checks("no run"), TemporaryDirectory() as folder:
            _expect_refused(command, folder, *arguments)
            expect(not any(Path(folder).iterdir()), "it wrote into a folder that is not a run")
    return checks.end()


def _with_subcommands(
    command: click.Command, path: str = ""
) -> Iterator[tuple[str, click.Command]]:
    """A command and all its subcommands, with their full names."""
    path = f"{path} {command.name}".strip()
    yield path, command
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            yield from _with_subcommands(subcommand, path)


def _expect_refused(command: click.Command, folder: str, *arguments: str) -> None:
    """Expect a user's error, which the command line turns into one message and exit code 2."""
    name = f"xraygan {command.name}"
    try:
        command.main([folder, *arguments], prog_name=name, standalone_mode=False)
    except UserError as error:
        message, code = str(error), 2
    except click.ClickException as error:
        message, code = error.format_message(), error.exit_code
    except Exception as error:
        expect(
            False, f"a folder that is not a run raises {describe_error(error)}; expected UserError"
        )
    else:
        expect(False, "a folder that is not a run is not refused; expected xraygan.UserError")
    expect(code == 2, f"a folder that is not a run ends with exit code {code}; expected 2")
    expect(folder in message, f"the message about a folder that is not a run lacks it: {message!r}")

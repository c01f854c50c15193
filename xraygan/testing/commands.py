"""Checks of commands that plugins bring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from xraygan.errors import UserError, describe_error

from .checks import Blocks, expect


def check_command(command: click.Command, *arguments: str) -> list[str]:
    """Check a command.

    That it and what is below it are click commands with a help whose first line can stand in a
    list; that every option says what it does; and that a command about a run, one with an argument
    RUN, refuses a folder that is none with one message that names it, and leaves it as it was.

    Args:
        arguments: what must be given beside the run.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Blocks(getattr(command, "name", None) or repr(command))
    with checks("kind"):
        expect(isinstance(command, click.Command), f"no click command: {command!r}")
    checks.stop_if_failed()
    checks.expect_summary(command, "xraygan --help")
    for path, below in _all(command):
        with checks("help"):
            expect(bool(below.get_short_help_str()), f"{path} has no help")
        with checks("options"):
            for option in below.params:
                said = not isinstance(option, click.Option) or option.hidden or option.help
                expect(bool(said), f"{path} {option.opts[0]} has no help")
    if any(parameter.metavar == "RUN" for parameter in command.params):
        with checks("no run"), TemporaryDirectory() as folder:
            _expect_refused(command, folder, *arguments)
            expect(not any(Path(folder).iterdir()), "it wrote into a folder that is no run")
    return checks.end()


def _all(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with their names."""
    path = f"{path} {command.name}".strip()
    yield path, command
    if isinstance(command, click.Group):
        for below in command.commands.values():
            yield from _all(below, path)


def _expect_refused(command: click.Command, folder: str, *arguments: str) -> None:
    """A user's error, of which the command line makes one message and exit code 2."""
    name = f"xraygan {command.name}"
    try:
        command.main([folder, *arguments], prog_name=name, standalone_mode=False)
    except UserError as error:
        said, code = str(error), 2
    except click.ClickException as error:
        said, code = error.format_message(), error.exit_code
    except Exception as error:
        expect(False, f"a folder that is no run raises {describe_error(error)}; expected UserError")
    else:
        expect(False, "a folder that is no run is not refused; expected xraygan.UserError")
    expect(code == 2, f"a folder that is no run ends with exit code {code}; expected 2")
    expect(folder in said, f"what it says of a folder that is no run does not name it: {said!r}")

"""Runs commands in a process of its own, and says which hosts they asked for; for test_check.py.

``python offline.py COMMAND...``: each argument is one command line of xraygan.
"""

from __future__ import annotations

import json
import shlex
import socket
import sys
import urllib.request
from typing import Any, NoReturn

from click.testing import CliRunner

from xraygan.cli import cli

asked: list[str] = []


def refuse(*of: Any, **how: Any) -> NoReturn:
    asked.append(str(of[:2]))
    raise AssertionError("the network was asked for")


if __name__ == "__main__":
    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse
    urllib.request.urlopen = refuse
    ended = {}
    for line in sys.argv[1:]:
        found = CliRunner().invoke(cli, shlex.split(line))
        ended[line] = {"code": found.exit_code, "said": found.output + str(found.exception or "")}
    print(json.dumps({"ended": ended, "asked": asked}))

"""The command line of this environment, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def xraygan(
    *arguments: str | Path, python: str | Path = sys.executable, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line and hold it to its exit code."""
    done = subprocess.run(
        [python, "-m", "xraygan", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done

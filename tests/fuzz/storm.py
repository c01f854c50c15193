"""Kills commands at random moments and starts them again until they end.

    python tests/fuzz/storm.py [KILLS] [COMMAND ...]

Each command is run undisturbed, then killed KILLS times (20): it gets SIGKILL at a moment drawn
from the time that it took, once or twice, and is started again until it ends. What it leaves must
be what the undisturbed one left, but for times, and no file more.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))

import forked
from undisturbed import outcome

RECIPE = """
[run]
name = "storm"
steps = 4
batch_size = 4
save_every = 1
log_every = 1
sample_every = 2
keep = 2
device = "cpu"
[data]
plugin = "phantom"
images = 60
image_size = 32
test_fraction = 0.4
classes = ["Edema", "Mass"]
findings = ["No Finding", "Edema", "Mass"]
[generator]
plugin = "dcgan"
width = 4
average = 0.9
[discriminator]
plugin = "dcgan"
width = 4
[objective]
plugin = "minmax"
[trackers.csv]
[metrics.ms_ssim]
[evaluation]
generated = 8
bootstrap = 20
"""
CLASSIFIER = """
[classifier]
plugin = "resnet18"
weights = "random"
optimizer.name = "sgd"
[metrics.auc]
"""
SWEEP = """
title = "A storm"
recipe = "storm.toml"
seeds = [0, 1]
grid = {}
[table]
metrics = ["%s"]
"""
AGAIN = 6  # starts after which a command that does not end is given up

#: command -> its words; RUN is a finished run, HERE the folder of a trial
COMMANDS = {
    "run": "run HERE/storm.toml --out HERE/run --resume",
    "sweep": "sweep HERE/sweep.toml --out HERE/out",
    "evaluate": "evaluate HERE/made --checkpoint 3",
    "generate": "generate HERE/made --count 12 --out HERE/images",
    "export": "export HERE/made --format safetensors --format torch --out HERE/export",
    "report": "report HERE/made",
    "audit": "audit HERE/made --generated 16",
    "prepare": "data prepare HERE/storm.toml",
}
#: those that begin with a finished run
ON_A_RUN = ("evaluate", "generate", "export", "report", "audit")


@dataclass(frozen=True)
class Storm:
    """Trials of commands, below a folder.

    Args:
        classifier: whether the runs have a classifier, too; it takes longer.
    """

    folder: Path
    classifier: bool = True

    def new_folder(self, name: str) -> Path:
        """A new folder of a trial, the same path for all, so that recipes are the same."""
        here = self.folder / "here"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        text = RECIPE + CLASSIFIER * self.classifier
        (here / "storm.toml").write_text(text)
        (here / "sweep.toml").write_text(SWEEP % ("auc/mean" if self.classifier else "ms_ssim"))
        if name in ON_A_RUN:
            shutil.copytree(self._made(), here / "made")
        return here

    def _made(self) -> Path:
        made = self.folder / "made"
        if not made.exists():
            (self.folder / "storm.toml").write_text(RECIPE + CLASSIFIER * self.classifier)
            words = f"run {self.folder}/storm.toml --out {made}".split()
            assert self.start(words, self.folder).wait() == 0, self.said()
        return made

    def start(self, words: list[str], here: Path) -> Started:
        cache = here / "cache" if words[0] == "data" else self.folder / "cache"
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
        return Started(words, here.parent, environment)

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def trial(self, name: str, moments: list[float]) -> tuple[dict[str, object], float]:
        """Run a command, killed after each of the seconds; what it leaves, and how long the last
        start took."""
        here = self.new_folder(name)
        words = [word.replace("HERE", str(here)) for word in COMMANDS[name].split()]
        for moment in moments:
            process = self.start(words, here)
            process.kill_after(moment)
        for _ in range(AGAIN):
            began = time.monotonic()
            code = self.start(words, here).wait()
            # Where it had ended before it was killed, some commands write nothing over.
            if code == 0 or (moments and "is not empty; name a new folder" in self.said()):
                return outcome(here), time.monotonic() - began
        raise AssertionError(f"{name} does not end after {moments}: {code}: {self.said()}")

    def check(self, name: str, kills: int, source: random.Random) -> list[str]:
        """Let a command be killed so many times; what was found, in lines."""
        whole, seconds = self.trial(name, [])
        found, left = [], kills
        while left:
            count = min(left, source.choice((1, 1, 2)))
            left -= count
            moments = [source.uniform(0, seconds) for _ in range(count)]
            try:
                now, _ = self.trial(name, moments)
            except AssertionError as error:
                found.append(str(error))
                continue
            if now != whole:
                differ = sorted(k for k in whole.keys() | now.keys() if whole.get(k) != now.get(k))
                found.append(f"{name}, killed after {moments}: {differ}")
        return found


class Started:
    """A command in a process that is forked from one that has imported torch."""

    def __init__(self, words: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        said = folder / "said"
        said.unlink(missing_ok=True)
        self.process = forked.fork(command, words, str(said), environment=environment)

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def kill_after(self, seconds: float) -> None:
        """Kill it, with what it started."""
        self.process.join(seconds)
        pid = self.process.pid
        children: list[str] = []
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self.process.kill()
        for child in children:
            with suppress(OSError):
                os.kill(int(child), signal.SIGKILL)
        self.process.join()


def command(words: list[str], said: str) -> None:
    """Run the command line; the runs of a sweep are forks too."""
    from xraygan.sweep import runner

    runner.subprocess = SimpleNamespace(Popen=Child, DEVNULL=None)  # type: ignore[attr-defined]
    forked.command(words, Path.cwd(), Path(said), Path(said))


class Child:
    """What a sweep needs of a process: one that is forked, and not started anew."""

    def __init__(self, words: list[str], *, stdout: object, env: Mapping[str, str], **_: object):
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os.environ.update(env)
            log = Path(stdout.name)  # type: ignore[attr-defined]
            code = 1
            try:
                forked.command(words[3:], Path.cwd(), log, log)
            except SystemExit as ended:
                code = int(ended.code or 0)
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int | None:
        while self.poll() is None:
            time.sleep(0.05)
        return self.returncode


def main(arguments: list[str]) -> int:
    kills = int(arguments[0]) if arguments else 20
    found = []
    for name in arguments[1:] or COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            # Its predictions and resamples belong to these two; for the others it only takes time.
            storm = Storm(Path(folder), classifier=name in ("run", "evaluate"))
            faults = storm.check(name, kills, random.Random(name))
            found += faults
            seconds = time.monotonic() - began
            lines = [f"{name}: {kills} kills in {seconds:.0f} s, {len(faults)} findings", *faults]
            print("\n  ".join(lines), flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

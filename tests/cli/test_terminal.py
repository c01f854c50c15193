"""Where a user works: terminals that close, disks that are full, unusual environments."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import forked
import pytest
from conftest import DCGAN_TABLES, GAN
from malformed import contents
from saved_run import CLASSIFIER, gan, saved, xraygan

from xraygan.cli import main
from xraygan.recipe.loading import load_tree
from xraygan.rundir import checkpoint
from xraygan.training.trainer import Trainer

RECIPE = (
    """
[run]
steps = 3
batch_size = 4
sample_every = 1
[data]
plugin = "phantom"
images = 48
image_size = 32
classes = ["Edema", "Mass"]
"""
    + DCGAN_TABLES
    + """[evaluation]
generated = 4
bootstrap = 0
"""
)
TRAIN = ("run", "recipe.toml", "--out", "made")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = saved(tmp_path_factory.mktemp("terminal") / "one", gan("cgan"), CLASSIFIER)
    (place / "metrics.jsonl").write_text('{"step": 1, "terms": {"a": 1.0}}\n')
    return place


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, a sweep of it, and a run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "sweep.toml").write_text(
        'title = "t"\nrecipe = "recipe.toml"\nseeds = [0]\n[[variants]]\nname = "a"\n'
        '[table]\nmetrics = ["accuracy"]\n'
    )
    return tmp_path


# -- terminals -------------------------------------------------------------------------------------


def signalled(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A signal in the middle of the second step."""
    take_step = Trainer.step

    def step(self: Trainer, step: int) -> dict:
        if step == 1:
            os.kill(os.getpid(), number)
        return take_step(self, step)

    monkeypatch.setattr(Trainer, "step", step)


def test_a_closed_terminal_saves_the_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
    try:
        with monkeypatch.context() as patch:
            signalled(patch, signal.SIGHUP)
            xraygan(capsys, *TRAIN, code=129)
    finally:
        signal.signal(signal.SIGHUP, before)
    found = checkpoint.latest(here / "made/checkpoints")
    assert found is not None and found.step == 2
    xraygan(capsys, *TRAIN, "--resume")
    xraygan(capsys, "run", "recipe.toml", "--out", "other")
    files = [checkpoint.latest(here / name / "checkpoints") for name in ("made", "other")]
    assert files[0] and files[1] and files[0].manifest.files == files[1].manifest.files


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM"])
def test_a_signal_that_is_ignored_still_is(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)  # as nohup does
    try:
        signalled(monkeypatch, number)
        xraygan(capsys, *TRAIN)
    finally:
        signal.signal(number, before)


def without(numbers: tuple[int, ...], how: str, words: tuple[str, ...], said: str) -> None:
    """The command line with standard files that are closed, a pipe nobody reads, or a full disk."""
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    end = -1
    if how == "pipe":
        reader, end = os.pipe()
        os.close(reader)
    elif how == "full":
        end = os.open("/dev/full", os.O_WRONLY)
    for number in numbers:
        os.close(number) if how == "closed" else os.dup2(end, number)
        if how == "closed":
            setattr(sys, {1: "stdout", 2: "stderr"}[number], None)
    sys.argv = ["xraygan", *words]
    main()


def ended(numbers: tuple[int, ...], how: str, *words: str) -> tuple[int | None, str]:
    process = forked.fork(without, numbers, how, words, str(Path.cwd() / "said"))
    process.join()
    return process.exitcode, Path("said").read_text()


@pytest.mark.parametrize("how", ["closed", "pipe", "full"])
@pytest.mark.parametrize("numbers", [(2,), (1, 2)])
def test_a_run_does_not_need_what_it_says_to_be_read(
    numbers: tuple[int, ...], how: str, here: Path
) -> None:
    code, said = ended(numbers, how, *TRAIN)
    assert code == (2 if how == "full" and 1 in numbers else 0), said
    assert "Traceback" not in said
    assert (here / "made/evaluation.json").is_file() and (here / "made/report.html").is_file()
    found = checkpoint.latest(here / "made/checkpoints")
    assert found is not None and found.step == 3
    assert "xraygan" not in (here / "made/metrics.jsonl").read_text()  # no message in a file


@pytest.mark.parametrize("how", ["closed", "pipe"])
@pytest.mark.parametrize("words", [("list-plugins",), ("recipes",), ("--help",)])
def test_a_listing_that_nobody_reads_is_no_error(
    words: tuple[str, ...], how: str, here: Path
) -> None:
    assert ended((1,), how, *words) == (0, "")


def test_a_result_that_a_full_disk_does_not_take_is_said(here: Path) -> None:
    code, said = ended((1,), "full", "list-plugins")
    assert code == 2 and said.strip().endswith("cannot be written (No space left on device)")


# -- disks -----------------------------------------------------------------------------------------

WRITING: dict[str, tuple[str, ...]] = {
    "generate": ("generate", "run", "--count", "2", "--out", "made/below"),
    "export": ("export", "run", "--format", "safetensors", "--out", "made/below"),
    "report": ("report", "run"),
    "comparison": ("report", "run", "--out", "page.html"),
    "audit": ("audit", "run", "--generated", "4"),
    "explain": ("explain", "run", "--images", "1"),
    "evaluate": ("evaluate", "run"),
    "figures": ("figures", "run", "--out", "made"),
    "prepare": ("data", "prepare", "recipe.toml", "--set", "data.cache=made"),
    "sweep": ("sweep", "sweep.toml", "--out", "made"),
    "new-plugin": ("new-plugin", "score", "mine", "--out", "made"),
    "copy": ("recipes", "copy", "quickstart", "made.toml"),
}


@contextmanager
def full_disk(bytes_left: int = 64) -> Iterator[None]:
    """No file can grow beyond this, as the operating system sees to."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def left(folder: Path) -> dict[str, str]:
    """The files of a folder but locks and remembered digests."""
    return {
        name: digest
        for name, digest in contents(folder).items()
        if not name.endswith((".lock", ".digests.json"))
    }


@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk_is_one_message_and_leaves_what_was_there(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command in ("audit", "explain"):  # one that was made before stays whole
        xraygan(capsys, *WRITING[command])
    before = left(here)
    with full_disk():
        said = xraygan(capsys, *WRITING[command], code=2)
    assert "File too large" in said and said.count("xraygan: ") == 1 and "Traceback" not in said
    assert left(here) == before


@pytest.mark.parametrize("command", WRITING)
def test_an_interrupted_command_leaves_nothing_half_written(
    command: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*of: object, **how: object) -> None:
        raise KeyboardInterrupt

    before = left(here)
    monkeypatch.setattr("os.fsync", interrupt)
    monkeypatch.setattr("tempfile.mkdtemp", interrupt)
    assert "interrupted" in xraygan(capsys, *WRITING[command], code=130)
    assert left(here) == before


def test_a_traceback_that_is_asked_for_leaves_the_exit_code(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = xraygan(capsys, "--traceback", "run", "none", code=2)
    assert "Traceback" in said and said.splitlines()[-1].startswith("xraygan: ")


# -- environments ----------------------------------------------------------------------------------

ENVIRONMENTS: dict[str, Mapping[str, str | None]] = {
    "no home": {"HOME": None, "XDG_CACHE_HOME": None},
    "a home that is no folder": {"HOME": "/dev/null", "XDG_CACHE_HOME": "cache"},
    "no folder for temporary files": {"TMPDIR": "/nowhere"},
    "ascii": {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    "a narrow terminal": {"COLUMNS": "20", "TERM": "xterm"},
    "a dumb terminal": {"TERM": "dumb"},
    "no colours": {"NO_COLOR": "1"},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment(name: str, here: Path) -> None:
    changed = {**os.environ, "XDG_CACHE_HOME": str(here / "cache"), **ENVIRONMENTS[name]}
    environment = {key: value for key, value in changed.items() if value is not None}
    recipe = RECIPE.replace("steps = 3", 'steps = 1\nname = "Müdigkeit-胸"')
    (here / "Größe 胸.toml").write_text(recipe, encoding="utf-8")
    if name == "no home":  # nobody's cache is to be filled by a test
        recipe = recipe.replace("[data]", f'[data]\ncache = "{here / "cache"}"')
        (here / "Größe 胸.toml").write_text(recipe, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for key in os.environ.keys() - environment.keys():
            patch.delenv(key)
        for key, value in environment.items():
            patch.setenv(key, value)
        forked.xraygan("run", "Größe 胸.toml", "--out", "Lauf 胸")
    assert (here / "Lauf 胸/report.html").is_file()


def test_a_cache_that_cannot_be_written_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    said = xraygan(capsys, *TRAIN, code=2)
    assert "/dev/null" in said and "--set data.cache=DIR" in said and "Traceback" not in said


def test_a_folder_that_is_gone_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    assert "the current folder no longer exists" in xraygan(capsys, "run", "quickstart", code=2)
    monkeypatch.chdir(here)


def test_a_clock_that_was_set_back_changes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    future = 4_000_000_000
    for path in here.rglob("*"):
        os.utime(path, (future, future))
    xraygan(capsys, "evaluate", "run")
    xraygan(capsys, "report", "run")


def test_nobody_else_reads_what_a_user_keeps_to_itself(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0o077)
    try:
        xraygan(capsys, *WRITING["generate"])
        xraygan(capsys, "report", "run", "--out", "page.html")
    finally:
        os.umask(before)
    for path in (*(here / "made").rglob("*"), here / "page.html"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_store_in_use_is_replaced_and_never_cut(here: Path) -> None:
    """What is mapped into memory stays, whatever our own commands do with the store."""
    from xraygan.data.cache_folder import PIXELS, list_stores, remove_stores
    from xraygan.data.datamodule import prepare

    data = {**GAN["data"], "cache": str(here / "cache")}
    recipe = load_tree({**GAN, "data": data}, Path("gan.toml"))
    used = prepare(recipe, _quiet)
    before = used.store.pixels.clone()
    path = used.store.folder / PIXELS
    assert path.stat().st_mode & 0o222 == 0  # no program writes into it by mistake
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")  # damaged, and so decoded anew
    inode = path.stat().st_ino
    again = prepare(recipe, _quiet)
    assert path.stat().st_ino != inode and (again.store.pixels == before).all()
    assert [fault for _, fault in remove_stores(list_stores(here / "cache"))] == [""]
    assert (again.store.pixels == before).all()


@contextmanager
def _quiet(what: str, total: int) -> Iterator:
    yield lambda count: None


@pytest.mark.parametrize("kind", ["a folder", "a file"])
def test_a_file_in_place_of_a_folder_or_the_reverse_is_no_defect(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "a folder":
        (here / "run" / "report.html").mkdir()
        words = ["report", "run"]
    else:
        (here / "runs").write_text("mine")
        words = ["run", "recipe.toml", "--out", "runs/one"]
    monkeypatch.setattr(sys, "argv", ["xraygan", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in said
    assert ("report.html" if kind == "a folder" else "runs") in said

"""Plugins from outside: installed, listed, used, removed; and broken in every way we know of."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import pytest
import torch
from conftest import SMALL
from installed_command import xraygan

from xraygan import UserError
from xraygan.cli import main
from xraygan.errors import did_you_mean
from xraygan.parts import importing
from xraygan.parts.options import REQUIRED, check_options, check_value, options_of
from xraygan.parts.registry import KINDS, Part, Registry, docstring, first_line, installed

if TYPE_CHECKING:
    from nowhere import Task  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "xraygan-energy"
BUILT_IN = [part for part in installed().parts() if part.distribution == "xraygan"]


def listed(**how: Any) -> dict[str, list[dict[str, str]]]:
    """What ``list-plugins --json`` prints, by distribution."""
    found: dict[str, list[dict[str, str]]] = {}
    for part in json.loads(xraygan("list-plugins", "--json", **how).stdout):
        found.setdefault(part["distribution"], []).append(part)
    return found


# -- the example -----------------------------------------------------------------------------------


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of a fresh virtual environment that sees what is installed in ours."""
    venv.create(tmp_path / "venv", with_pip=True, symlinks=os.name != "nt")
    inside = next((tmp_path / "venv").glob("[Ll]ib/**/site-packages"))
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # addsitedir, and not the bare path, so that the .pth files there count (an editable checkout).
    lines = [f"import site; site.addsitedir({path!r})" for path in ours]
    (inside / "ours.pth").write_text("\n".join(lines) + "\n")
    return tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.mark.slow
def test_a_third_party_score_from_install_to_uninstall(tmp_path: Path, python: Path) -> None:
    pytest.importorskip("hatchling", reason="the example is built without a network")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "install", *offline, str(EXAMPLE)], check=True, capture_output=True)

    summary = "Energy distance between the class distributions of the real and the generated batch"
    assert listed(python=python)["xraygan-energy"] == [
        {
            "kind": "score",
            "name": "energy",
            "summary": summary,
            "distribution": "xraygan-energy",
            "version": "0.1.0",
            "status": "ok",
            "error": "",
        }
    ]
    described = xraygan("describe", "score", "energy", python=python).stdout
    assert "E = 2 E|x - y|^a" in described
    assert "exponent = 1.0    # number > 0 and < 2" in described

    recipe = tmp_path / "energy.toml"
    recipe.write_text('extends = "quickstart"\nmetrics = {}\n[scores.energy]\nweight = 0.1\n')
    sets = [word for setting in (*SMALL, "run.steps=3") for word in ("--set", setting)]
    xraygan("run", recipe, *sets, "--out", tmp_path / "run", python=python)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    terms = [json.loads(line)["terms"] for line in lines]
    learned = [found for found in terms if "generator" in found]  # it waits in the other steps
    assert learned
    assert all(0 <= found["energy"] < math.inf for found in learned)

    subprocess.run([*pip, "uninstall", "--yes", "xraygan-energy"], check=True, capture_output=True)
    assert "xraygan-energy" not in listed(python=python)
    assert "no score is named 'energy'" in xraygan("check", recipe, python=python, code=2).stderr


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_the_energy_distance(exponent: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    score = importlib.import_module("xraygan_energy").EnergyDistance(exponent=exponent)
    rows = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, y = rows[:2], rows[2:].requires_grad_()

    def mean(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(math.dist(p, q) ** exponent for p in a for q in b) / (len(a) * len(b))

    expected = 2 * mean(x, y.detach()) - mean(x, x) - mean(y.detach(), y.detach())
    assert score(SimpleNamespace(real_probs=x, fake_probs=y)).item() == pytest.approx(expected)

    # A classifier that is sure gives many images the very same row.
    sure = torch.eye(3)[[0, 0, 1]].requires_grad_()
    value = score(SimpleNamespace(real_probs=torch.eye(3)[[0, 1, 0]], fake_probs=sure))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert sure.grad is not None
    assert sure.grad.isfinite().all()


# -- broken plugins --------------------------------------------------------------------------------

HEAD = "from xraygan import Dataset, Score, hookimpl\n"
SCORE = HEAD + "class Zero(Score):\n    def forward(self, step): return step.fake.sum() * 0\n"
COMMAND = (
    "import click\nfrom xraygan import hookimpl\n"
    "@click.command()\ndef hello():\n    'Greet the reader.'\n    click.echo('good day')\n"
)

#: module -> (source, kind and name under which it is listed, what the reason says)
BROKEN = {
    "raises": (
        "raise RuntimeError('no licence found')",
        ("plugin", "raises"),
        "RuntimeError: no licence found",
    ),
    "exits": (
        "import sys; sys.exit('needs a licence')",
        ("plugin", "exits"),
        "SystemExit: needs a licence",
    ),
    "leaves": (
        "import sys; sys.exit(0)",
        ("plugin", "leaves"),
        "SystemExit: 0",
    ),
    "interrupts": (
        "raise KeyboardInterrupt",
        ("plugin", "interrupts"),
        "KeyboardInterrupt",
    ),
    "base": (
        "class Stop(BaseException): pass\nraise Stop('here')",
        ("plugin", "base"),
        "Stop: here",
    ),
    "unprintable": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        ("plugin", "unprintable"),
        "Odd: (its message cannot be read)",
    ),
    "long": (
        "raise ValueError('x' * 10**6)",
        ("plugin", "long"),
        "x...",
    ),
    "returns": (
        SCORE + "@hookimpl\ndef xraygan_register_scores(register): return {'zero': Zero}",
        ("score", "returns"),
        "xraygan_register_scores returned {'zero': <class 'returns.Zero'>}; it must call register",
    ),
    "yields": (
        SCORE + "@hookimpl\ndef xraygan_register_scores(register):\n    yield 'zero', Zero",
        ("score", "yields"),
        "; it must call register(name, part)",
    ),
    "hook_exits": (
        HEAD + "@hookimpl\ndef xraygan_register_scores(register): raise SystemExit(0)",
        ("score", "hook_exits"),
        "xraygan_register_scores raised SystemExit: 0",
    ),
    "lazy_exits": (
        HEAD + "@hookimpl\ndef xraygan_register_scores(register):\n"
        "    register('gone', 'leaves:Gone')",
        ("score", "gone"),
        "cannot import leaves:Gone: SystemExit: 0",
    ),
    "unnamed": (
        SCORE + "@hookimpl\ndef xraygan_register_scores(register): register(7, Zero)",
        ("score", "7"),
        "a part cannot be called 7: the name is not text but int",
    ),
    "taken": (
        SCORE + "@hookimpl\ndef xraygan_register_scores(register): register('mmd', Zero)",
        ("score", "mmd"),
        "the name 'mmd' is already taken by xraygan",
    ),
    "dataset": (
        HEAD + "class Images(Dataset): pass\n"
        "@hookimpl\ndef xraygan_register_scores(register): register('images', Images)",
        ("score", "images"),
        "not a subclass of xraygan.Score: <class 'dataset.Images'>",
    ),
    "number": (
        HEAD + "@hookimpl\ndef xraygan_register_scores(register): register('seven', 7)",
        ("score", "seven"),
        "not a subclass of xraygan.Score: 7",
    ),
    "abstract": (
        HEAD + "class Half(Score): pass\n"
        "@hookimpl\ndef xraygan_register_scores(register): register('half', Half)",
        ("score", "half"),
        "Half does not implement forward",
    ),
    "lazy": (
        HEAD + "@hookimpl\n"
        "def xraygan_register_scores(register): register('later', 'lazy.networks:Later')",
        ("score", "later"),
        "cannot import lazy.networks:Later: ModuleNotFoundError",
    ),
    "misspelt": (
        SCORE + "@hookimpl\ndef xraygan_register_scorez(register): register('zero', Zero)",
        ("plugin", "misspelt"),
        "no hook is named 'xraygan_register_scorez': did you mean 'xraygan_register_scores'",
    ),
    "unmarked": (
        SCORE + "def xraygan_register_scores(register): register('zero', Zero)",
        ("plugin", "unmarked"),
        "is @hookimpl missing?",
    ),
    "argument": (
        SCORE + "@hookimpl\ndef xraygan_register_scores(registry): registry('zero', Zero)",
        ("plugin", "argument"),
        "{'registry'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "verb": (
        COMMAND + "@hookimpl\ndef xraygan_register_commands(register): register('run', hello)",
        ("command", "run"),
        "the name 'run' is already taken by xraygan itself",
    ),
    "no_command": (
        COMMAND + "@hookimpl\ndef xraygan_register_commands(register): register('seven', 7)",
        ("command", "seven"),
        "not an instance of click.Command: 7",
    ),
    "lost": (
        COMMAND + "@hookimpl\n"
        "def xraygan_register_commands(register): register('lost', 'lost.verbs:lost')",
        ("command", "lost"),
        "cannot import lost.verbs:lost: ModuleNotFoundError",
    ),
    "hook": (
        HEAD + "@hookimpl\ndef xraygan_register_scores(register): raise KeyError('weights')",
        ("score", "hook"),
        "xraygan_register_scores raised KeyError: 'weights'",
    ),
}
WORKING = SCORE + "@hookimpl\ndef xraygan_register_scores(register): register('zero', Zero)"


def distributions(folder: Path, sources: Mapping[str, str]) -> str:
    """A folder for PYTHONPATH with a distribution of each module."""
    for module, source in sources.items():
        (folder / f"{module}.py").write_text(source + "\n")
        info = folder / f"third_{module}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: third-{module}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[xraygan]\n{module} = {module}\n")
    return str(folder)


@pytest.fixture(scope="module")
def broken_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every broken distribution and one that works."""
    sources = {module: source for module, (source, *_) in BROKEN.items()}
    return distributions(tmp_path_factory.mktemp("broken"), {**sources, "working": WORKING})


@pytest.fixture(scope="module")
def with_broken(broken_path: str) -> dict[str, list[dict[str, str]]]:
    return listed(PYTHONPATH=broken_path)


def test_an_import_that_does_not_end_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a few seconds; Ctrl-C names it too, and is not taken for the plugin's own."""
    monkeypatch.setattr(importing, "SECONDS", 0.05)
    with (
        pytest.raises(KeyboardInterrupt),
        importing.import_errors("the plugin 'slow' of a 1", builtin=True),
        # One within the other, as a part is imported while its plugin is.
        importing.import_errors("the score 'slow' of a 1", builtin=False),
    ):
        while "still importing" not in (said := capsys.readouterr().err):
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
    assert "xraygan: still importing the" in said and "'slow' of a 1; Ctrl-C ends this" in said
    assert "interrupted while importing the score 'slow' of a 1" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with (
        pytest.raises(importing.ImportFault, match="KeyboardInterrupt"),
        importing.import_errors("the plugin 'odd' of a 1", builtin=False),
    ):
        raise KeyboardInterrupt
    assert "odd" not in capsys.readouterr().err


def test_a_command_of_another_that_raises_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def hello() -> None:
        raise ValueError("no greeting")

    brought = Registry([])
    brought._parts["command", "hello"] = Part("command", "hello", "third-hello", "1.0", hello)
    monkeypatch.setattr("xraygan.parts.registry.commands", lambda: brought)
    monkeypatch.setattr(sys, "argv", ["xraygan", "hello"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = "the command 'hello' of third-hello 1.0 raised ValueError: no greeting"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("module", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason(module: str, with_broken: dict) -> None:
    _, (kind, name), reason = BROKEN[module]
    (found,) = with_broken[f"third-{module}"]
    assert reason in found["error"]
    assert (found["kind"], found["name"]) == (kind, name)
    assert (found["version"], found["status"]) == ("1.0", "broken")


def test_broken_plugins_leave_the_others_working(with_broken: dict) -> None:
    (working,) = with_broken["third-working"]
    assert (working["name"], working["status"]) == ("zero", "ok")
    ours = [(part["kind"], part["name"], part["status"]) for part in with_broken["xraygan"]]
    assert ours == [(part.kind, part.name, "ok") for part in BUILT_IN]


def test_a_recipe_of_broken_and_unknown_parts_stops_before_any_work(
    tmp_path: Path, broken_path: str
) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text('extends = "quickstart"\n[scores.mdm]\n[scores.seven]\n[scores.raises]\n')
    done = xraygan("run", recipe, "--out", out, code=2, PYTHONPATH=broken_path)
    assert f"{recipe}: [scores.mdm]: no score is named 'mdm': did you mean 'mmd'?" in done.stderr
    assert "the score 'seven' of third-seven" not in done.stderr
    assert "the score 'seven' of third-number 1.0 is broken: not a subclass" in done.stderr
    assert "the plugin 'raises' of third-raises 1.0 is broken: RuntimeError" in done.stderr
    # A plugin that failed to import may be the one that brings the missing name.
    assert "misspelt of third-misspelt 1.0" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not out.exists()


# -- commands --------------------------------------------------------------------------------------


def test_a_command_of_another_is_listed_described_and_run(tmp_path: Path) -> None:
    """And help imports nothing but what may bring commands, and of that nothing lazy."""
    sources = {
        "greeting": COMMAND.replace("import click", "import click, greeting_words", 1)
        + "@hookimpl\ndef xraygan_register_commands(register):\n"
        "    register('hello', hello)\n    register('later', 'heavy_verbs:later')\n",
        "scorer": "from xraygan import hookimpl\n@hookimpl\n"
        "def xraygan_register_scores(register): register('late', 'heavy_verbs:Late')",
    }
    path = distributions(tmp_path, sources)
    (tmp_path / "greeting_words.py").touch()
    (tmp_path / "heavy_verbs.py").write_text(COMMAND.replace("hello", "later"))
    script = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print({'scorer', 'heavy_verbs'} & set(sys.modules)))\n"
        "runpy.run_module('xraygan', run_name='__main__')\n"
    )
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], env=environment, capture_output=True, text=True
    )
    assert done.stdout.endswith("set()\n")
    section = done.stdout.partition("Commands of plugins:\n")[2]
    assert re.search(r"^  hello +Greet the reader$", section, re.M)
    assert re.search(r"^  later +Greet the reader$", section, re.M)

    parts = {part["name"]: part for part in listed(PYTHONPATH=path)["third-greeting"]}
    assert {part["kind"] for part in parts.values()} == {"command"}
    assert parts["hello"]["version"] == "1.0" and parts["later"]["status"] == "ok"
    assert "Greet the reader." in xraygan("describe", "command", "hello", PYTHONPATH=path).stdout
    for verb in parts:
        assert xraygan(verb, PYTHONPATH=path).stdout == "good day\n"


def test_a_broken_command_is_said_to_be_and_the_others_work(broken_path: str) -> None:
    said = xraygan("--help", PYTHONPATH=broken_path).stdout
    section = said.partition("Commands of plugins:\n")[2]
    assert re.search(r"^  run +broken: the name 'run' is already taken by", section, re.M)
    assert re.search(r"^  explain +Draw", section, re.M)
    said = xraygan("lost", PYTHONPATH=broken_path, code=2).stderr
    assert "the command 'lost' of third-lost 1.0 is broken: cannot import lost.verbs:lost" in said
    assert "Traceback" not in said
    assert "Train RECIPE" in xraygan("run", "--help", PYTHONPATH=broken_path).stdout
    assert (
        "No such command 'nonsense'" in xraygan("nonsense", PYTHONPATH=broken_path, code=2).stderr
    )


def test_describe_names_the_nearest_part() -> None:
    done = xraygan("describe", "score", "mdm", code=2)
    assert "did you mean 'mmd'?" in done.stderr
    assert "Traceback" not in done.stderr


# -- options ---------------------------------------------------------------------------------------


class _Annotated:
    def __init__(self, task: Task, *, width: int = 8, slope: list[float] | None = None) -> None: ...


class _Unresolved:
    def __init__(self, *, width: Integer = 8) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class _Uncheckable:
    def __init__(self, *, device: torch.device | None = None) -> None: ...


def test_only_the_options_annotations_need_to_be_importable() -> None:
    assert list(options_of(_Annotated)) == ["width", "slope"]
    with pytest.raises(UserError, match=r"_Unresolved: .*'Integer' is not defined"):
        options_of(_Unresolved)


@pytest.mark.parametrize(
    ("values", "key", "message"),
    [
        ({"widht": 8}, "widht", "unknown option; did you mean 'width'?"),
        ({"width": "8"}, "width", "expected integer, found '8'"),
        ({"width": 8.0}, "width", "expected integer, found 8.0"),
        ({"width": True}, "width", "expected integer, found True"),
        ({"slope": [0.1, math.nan]}, "slope", "expected list of number"),
    ],
)
def test_a_value_that_does_not_fit_is_a_fault_at_its_key(
    values: dict, key: str, message: str
) -> None:
    _, faults = check_options(_Annotated, values)
    assert list(faults) == [key]
    assert message in faults[key]


def test_an_annotation_that_cannot_be_checked_is_the_plugins_fault() -> None:
    assert check_options(_Uncheckable, {}) == ({"device": None}, {})
    _, faults = check_options(_Uncheckable, {"device": "cpu"})
    assert "annotation cannot be checked" in faults["device"]


# -- the built-in parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("part", BUILT_IN, ids=lambda part: f"{part.kind}-{part.name}")
def test_a_built_in_part_is_whole(part: Part) -> None:
    assert part.resolve() is part.cls  # importable, of its kind, nothing left to implement
    text = docstring(part.cls)
    assert first_line(text) == part.summary  # as the listing reads it, without importing
    assert 10 < len(part.summary) < 100
    if KINDS[part.kind].instance:
        return
    options = options_of(part.cls)
    for option in options.values():
        assert option.type is not Any, f"{option.name} has no type"
        if option.default is not REQUIRED:
            value = list(option.default) if isinstance(option.default, tuple) else option.default
            assert check_value(option.type, value) == option.default
    documented = text.partition("\nArgs:\n")[2].partition("\nRaises:\n")[0]
    names = re.findall(r"^    (\w+(?:, \w+)*):", documented, flags=re.MULTILINE)
    assert {name for group in names for name in group.split(", ")} == set(options)


def test_every_built_in_plugin_is_declared_and_packed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
    assert set(project["project"]["entry-points"]["xraygan"].values()) == folders
    packed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packed == {"xraygan", *(f"plugins/{folder}" for folder in folders)}


def test_an_empty_environment_says_so() -> None:
    registry = Registry(points=[])
    with pytest.raises(UserError, match=f"no score is named 'mmd': {did_you_mean('mmd', [])}"):
        registry.get("score", "mmd")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("list-plugins",),
        ("list-plugins", "--json"),
        ("run", "--help"),
        ("export", "--help"),
        ("describe", "command", "explain"),
    ],
)
def test_help_and_listings_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    script = (
        "import atexit, runpy, sys\n"
        "heavy = {'torch', 'pandas', 'numpy'}\n"
        "atexit.register(lambda: print('imported:', sorted(heavy & set(sys.modules))))\n"
        "sys.argv[0] = 'xraygan'\n"
        "runpy.run_module('xraygan', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) > 3
    assert done.stdout.splitlines()[-1] == "imported: []"

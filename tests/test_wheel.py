"""What is published: a wheel that runs outside the checkout; the sdist makes the same one."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import SMALL

ROOT = Path(__file__).parents[1]


def build(source: Path, kind: str, out: Path) -> Path:
    """An sdist or a wheel of a folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    [made] = out.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the sdist makes."""
    folder = tmp_path_factory.mktemp("dist")
    with tarfile.open(build(ROOT, "sdist", folder / "sdist")) as archive:
        archive.extractall(folder, filter="data")
    [unpacked] = folder.glob("xraygan-*")
    return build(unpacked, "wheel", folder / "wheel")


def test_sdist_and_checkout_make_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    names, expected = (
        sorted(zipfile.ZipFile(made).namelist()) for made in (wheel, build(ROOT, "wheel", tmp_path))
    )
    assert names == expected
    assert {"xraygan/py.typed", "xraygan/recipes/quickstart.toml"} <= set(names)


@pytest.mark.slow
def test_a_wheel_runs_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """With this environment's libraries behind it, but none of the checkout."""
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env/bin/python"
    [packages] = (tmp_path / "env/lib").glob("python*/site-packages")
    paths = [path for path in sys.path if path.endswith("-packages")] or site.getsitepackages()
    (packages / "libraries.pth").write_text("\n".join(paths), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [python, *map(str, command)], cwd=tmp_path, env=environment, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps")
    subprocess.run([*pip, "-q", "--no-index", str(wheel)], check=True, capture_output=True)
    origins = run(
        "-c", "import xraygan, xraygan_dcgan; print(xraygan.__file__, xraygan_dcgan.__file__)"
    )
    assert all(path.startswith(str(packages)) for path in origins.split())
    assert "broken" not in run("-m", "xraygan", "list-plugins")
    small = [word for text in SMALL for word in ("--set", text)]
    run("-m", "xraygan", "run", "quickstart", "--set", "run.steps=2", *small)
    assert (tmp_path / "runs/quickstart/report.html").is_file()

"""Files that are nearly right: a message or a result, never another exception."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import WHOLE

from xraygan import UserError
from xraygan.recipe.loading import load
from xraygan.rundir import checkpoint
from xraygan.rundir.directory import RunDirectory

often = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
#: what TOML and JSON are made of, and what they are not
PIECES = st.one_of(
    st.sampled_from(
        ["[", "]", "{", "}", "=", ".", ",", '"', "'", "\n", "nan", "-inf", "1e999", "true", "0x"]
    ),
    st.sampled_from(["[[", "]]", '"""', "false", "null", "9" * 400, "1979-05-27", "\0", "\ufeff"]),
    st.text(max_size=4),
    st.integers().map(str),
)


@st.composite
def edited(draw: st.DrawFn, text: str) -> str:
    """A text with a few spans replaced."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(start + 12, len(text))))
        text = text[:start] + draw(PIECES) + text[end:]
    return text


@often
@given(text=edited(WHOLE))
def test_an_edited_recipe(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        found = load(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert found.tables.run.batch_size >= 2


@often
@given(key=PIECES | edited("scores.mmd.weight"), value=PIECES | edited("0.5"))
def test_an_edited_override(key: str, value: str) -> None:
    with contextlib.suppress(UserError):
        load("ucgan_full", [f"{key}={value}"])


MANIFEST = json.dumps(
    {
        "format": 1, "step": 1,
        "log": {"sums": {"a": 1.0}, "counts": {"a": 1}, "steps": 1, "skipped": 0},
        "files": {"generator.safetensors": "0" * 64},
    }
)  # fmt: skip


@often
@given(text=edited(MANIFEST))
def test_an_edited_manifest(text: str, tmp_path: Path) -> None:
    """No edit can make a manifest match a file that is not there."""
    folder = tmp_path / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True, exist_ok=True)
    content = text.encode(errors="surrogatepass")
    (folder / "manifest.json").write_bytes(content)
    found = checkpoint.latest(folder.parent)
    assert found is None or not found.manifest.files
    (folder.parent / "best").write_bytes(content)
    with contextlib.suppress(UserError):
        assert checkpoint.find(folder.parent, "best").directory == folder
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with contextlib.suppress(UserError):
        for line in RunDirectory(tmp_path).read_metrics():
            assert isinstance(line["step"], int)

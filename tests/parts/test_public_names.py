"""What plugins import is public: in built-in plugins, templates, examples and documentation."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import xraygan
from xraygan import plugin_api, testing

ROOT = Path(__file__).parents[2]
PUBLIC: dict[str, ModuleType] = {home.__name__: home for home in (xraygan, plugin_api, testing)}


def sources() -> Iterator[tuple[str, str]]:
    """Python that plugin authors read or copy, by where it stands."""
    for folder in ("plugins", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "xraygan" / "scaffold" / "templates").glob("*.py.txt")):
        text = path.read_text(encoding="utf-8")
        text = text.replace("check_$kind", "check_score")
        yield str(path.relative_to(ROOT)), re.sub(r"\$\{?(\w+)\}?", r"\1", text)
    for path in sorted((ROOT / "examples").rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield str(path.relative_to(ROOT)), "".join(cell["source"])
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
            yield str(path.relative_to(ROOT)), textwrap.dedent(block)


def imported(source: str) -> Iterator[tuple[str, str]]:
    """Modules of the package that a source imports, and their names; ``""`` for a module itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def faults() -> Iterator[str]:
    for where, source in sources():
        for module, name in imported(source):
            if module.partition(".")[0] != "xraygan" or (module, name) == ("xraygan", ""):
                continue
            if module not in PUBLIC or name not in PUBLIC[module].__all__:
                yield f"{where}: {module} {name}"


def test_plugins_templates_examples_and_docs_import_public_names_alone() -> None:
    assert list(faults()) == []


def test_a_built_in_plugin_imports_no_other_plugin() -> None:
    for path in (ROOT / "plugins").rglob("*.py"):
        own = path.relative_to(ROOT / "plugins").parts[0]
        for module, _ in imported(path.read_text(encoding="utf-8")):
            package = module.partition(".")[0]
            assert not package.startswith("xraygan_") or package == own, path


@pytest.mark.parametrize(
    ("home", "name"), [(home, name) for home in PUBLIC for name in PUBLIC[home].__all__]
)
def test_a_public_name_is_there_and_explained(home: str, name: str) -> None:
    value = getattr(PUBLIC[home], name)
    is_ours = getattr(value, "__module__", "").startswith("xraygan")
    if is_ours and (inspect.isclass(value) or inspect.isroutine(value)):
        assert len(inspect.cleandoc(value.__doc__ or "")) > 20


def test_type_checkers_see_the_tools_that_are_there() -> None:
    """The names that are imported on demand, and those that are imported for type checkers."""
    tree = ast.parse(inspect.getsource(plugin_api))
    seen = {
        alias.asname: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == plugin_api._HOMES
    for name, module in seen.items():
        assert getattr(import_module(str(module)), str(name)) is getattr(plugin_api, str(name))


def test_the_options_of_commands_are_imported_without_anything_heavy() -> None:
    script = (
        "import sys\n"
        "from xraygan.plugin_api import (SEED_TYPE, BoundedInt, SafePath, checkpoint_option,\n"
        "    quiet_option, run_argument, set_option)\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'matplotlib', 'PIL'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'xraygan\.plugin_api' has no attribute 'no'"):
        plugin_api.no  # type: ignore[attr-defined]  # noqa: B018
    assert "read_grey" in dir(plugin_api)

"""Write the project of a new plugin: an installable package with one part, a test and CI."""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib.resources import files
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template

from xraygan.errors import UserError, did_you_mean, shown
from xraygan.parts.registry import KINDS, installed
from xraygan.utils.naming import folder_fault

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

#: kind -> the lines of a recipe that use a part of it
RECIPES = {
    "dataset": '[data]\nplugin = "{name}"\nroot = "FOLDER"',
    "metric": "[metrics.{name}]",
    "tracker": "[trackers.{name}]",
    "extractor": '[extractors.{name}]\n\n[scores.gram]\nextractor = "{name}"',
    "score": "[scores.{name}]\nweight = 0.1",
}

#: instructions for the README
IN_A_RECIPE = 'In a recipe:\n\n```toml\nextends = "quickstart"\n\n{recipe}\n```'
IN_A_SHELL = "On a run:\n\n```sh\nxraygan {name} RUN\n```"


def write_project(kind: str, name: str, folder: Path | None = None) -> Path:
    """Write a working project: a part of a kind, a test of it, packaging and CI.

    Args:
        kind: a key of :data:`xraygan.parts.registry.KINDS`.
        name: the part's name in recipes or on the command line: small letters, digits, underscores.
        folder: the project's folder; ``xraygan-NAME`` by default.

    Returns:
        The folder.

    Raises:
        UserError: there is no such kind, the name is invalid or taken, or the folder exists.
    """
    if kind not in KINDS:
        raise UserError(f"no kind of part is named {kind!r}; {did_you_mean(kind, KINDS)}")
    if holder := installed().holder(kind, name):
        raise UserError(f"{holder} already has a {kind} {name!r}; choose another name")
    if fault := _name_fault(kind, name):
        raise UserError(f"{shown(name)} cannot be a part's name: {fault}")
    project = f"xraygan-{name.replace('_', '-')}"
    folder = folder or Path(project)
    if folder.exists():
        raise UserError(f"{folder} already exists; name another folder with --out DIR")
    values = _template_values(kind, name, project)
    test = f"test_{kind}.py" if kind in ("dataset", "command") else "test.py"
    templates_of = {
        f"{values['module']}.py": f"{kind}.py",
        f"test_{name}.py": test,
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".github/workflows/test.yml": "workflow.yml",
    }
    templates = files(__package__) / "templates"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for path, template in templates_of.items():
                text = (templates / f"{template}.txt").read_text(encoding="utf-8")
                (building / path).parent.mkdir(parents=True, exist_ok=True)
                (building / path).write_text(Template(text).substitute(values), encoding="utf-8")
            building.chmod(0o755)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    return folder


def _name_fault(kind: str, name: str) -> str:
    """Why a part, its class, module and project cannot have a name; empty if they can."""
    if not NAME.fullmatch(name):
        return "expected small letters, digits and underscores, for example energy_distance"
    if fault := folder_fault(name):
        return f"it {fault}"
    values = _template_values(kind, name, "")
    if find_spec(values["module"]):
        return f"the module {values['module']} already exists; choose another name"
    text = (files(__package__) / "templates" / f"{kind}.py.txt").read_text(encoding="utf-8")
    if iskeyword(values["Class"]) or re.search(rf"\b{values['Class']}\b", text):
        return f"its class {values['Class']} would hide another name of its module; choose another"
    return ""


def _template_values(kind: str, name: str, project: str) -> dict[str, str]:
    """The values of the templates' placeholders."""
    article = "An" if kind[0] in "aeiou" else "A"
    recipe = RECIPES.get(kind, '[{kind}]\nplugin = "{name}"').format(kind=kind, name=name)
    usage = IN_A_SHELL if kind == "command" else IN_A_RECIPE
    return {
        "kind": kind,
        "a_kind": f"{article} {kind}",
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "project": project,
        "module": f"xraygan_{name}",
        "Class": "".join(word.capitalize() for word in name.split("_")),
        "usage": usage.format(recipe=recipe, name=name),
    }

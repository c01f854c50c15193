"""``xraygan check``: validate a recipe, assemble it, print its graph."""

from __future__ import annotations

import click

from .common import recipe_argument, set_option


@click.command()
@recipe_argument
@set_option
def check(recipe: str, overrides: tuple[str, ...]) -> None:
    """Validate and assemble RECIPE and print its graph.

    Networks with their parameters, terms with their weight and audience. The data's folder is
    looked at, its images are not decoded; nothing is trained or written.
    """
    from rich.console import Console
    from rich.table import Table

    from ..graph import assemble
    from ..recipe import load
    from ..store import open_dataset, task_of

    loaded = load(recipe, overrides)
    task = task_of(loaded, open_dataset(loaded))
    graph = assemble(loaded, task)
    console = Console(soft_wrap=True)
    policy = "one class an image" if task.exclusive else "any findings an image"
    console.print(f"{loaded.name}: {task.image_size} x {task.image_size}, {policy}", markup=False)
    console.print(f"classes: {', '.join(task.classes)}", markup=False)
    networks = Table("network", "plugin", "parameters", "optimizer")
    extractors = {name: loaded.choices[f"extractors.{name}"] for name in graph.extractors}
    for name, network in {**graph.networks, **graph.extractors}.items():
        table = name if name in loaded.choices else f"scores.{name}"
        choice = extractors[name] if name in extractors else loaded.choices[table]
        count = sum(p.numel() for p in network.parameters())
        learns = "frozen"
        if name in graph.optimizers:
            words = choice.words.optimizer
            learns = f"{words.name}, lr {words.lr:g}"
        networks.add_row(name, choice.part.name, f"{count:,}", learns)
    console.print(networks)
    terms = Table("term", "weight", "trains")
    for term in graph.terms:
        terms.add_row(term.name, f"{term.weight:g}", ", ".join(sorted(term.trains)))
    console.print(terms)

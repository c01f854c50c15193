"""``xraygan check``: validate a recipe, build its networks and print its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import recipe_argument, set_option

if TYPE_CHECKING:
    from rich.console import Console

    from xraygan.graph.graph import TrainingGraph
    from xraygan.recipe.loading import Recipe


@click.command()
@recipe_argument
@set_option
def check(recipe: str, overrides: tuple[str, ...]) -> None:
    """Validate RECIPE, build its networks and print its graph.

    Prints the networks with their number of parameters, and the terms with their weights and the
    networks that they train. Reads the index of the dataset but decodes no image. Trains, writes
    and downloads nothing, so it does not show whether published weights can be downloaded.
    """
    from rich.console import Console

    from xraygan.recipe.loading import load
    from xraygan.utils.planning import Blocked, planning, without_compile_folder

    with without_compile_folder():
        loaded = load(recipe, overrides)
        from xraygan.data.datamodule import check_index, open_dataset
        from xraygan.data.splits import task_of
        from xraygan.graph.build import assemble, dry_build
    console = Console(soft_wrap=True)
    try:
        with planning():
            dataset = open_dataset(loaded)
            task = task_of(loaded, dataset)
            check_index(loaded, dataset, task)
            policy = "one class an image" if task.exclusive else "any findings an image"
            size = f"{task.image_size} x {task.image_size}"
            console.print(f"{loaded.name}: {size}, {policy}", markup=False)
            console.print(f"classes: {', '.join(task.classes)}", markup=False)
            if start := loaded.tables.start:
                line = f"networks start from {start.run}, checkpoint {start.checkpoint}"
                console.print(line, markup=False)
            dry_build(loaded, task)
            graph = assemble(loaded, task)
    except Blocked as blocked:
        reason = (
            "check downloads and writes nothing, so it cannot show the graph; it found no fault"
        )
        console.print(f"{blocked}. {reason}", markup=False)
    else:
        _print_graph(console, loaded, graph)


def _print_graph(console: Console, loaded: Recipe, graph: TrainingGraph) -> None:
    from rich.table import Table

    networks = Table("network", "plugin", "trained parameters", "optimizer")
    for name, network in graph.networks.items():
        choice = loaded.network(name)
        optimizer = "none"
        if name in graph.optimizers:
            settings = choice.config.optimizer
            optimizer = f"{settings.name}, lr {settings.lr:g}"
            optimizer += ", cosine" if settings.schedule == "cosine" else ""
        networks.add_row(name, choice.part.name, _parameter_count(network), optimizer)
    for name, network in graph.extractors.items():
        plugin = loaded.choices[f"extractors.{name}"].part.name
        networks.add_row(f"extractors.{name}", plugin, _parameter_count(network), "frozen")
    console.print(networks)
    terms = Table("term", "weight", "trains")
    for term in graph.terms:
        audience = ", ".join(sorted(term.trains)) or "nothing (logged only)"
        terms.add_row(term.name, f"{term.weight:g}", audience)
    console.print(terms)


def _parameter_count(network: Any) -> str:
    """The number of parameters that learn, and of all where some are frozen."""
    count = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return f"{count:,}" if trained == count else f"{trained:,} of {count:,}"

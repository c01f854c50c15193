"""Shipped recipes on images that need no data."""

from __future__ import annotations

from pathlib import Path

from xraygan.recipe.loading import Recipe, load

#: the plugin whose weights a package brings
AT_HAND = "timm"


def on_the_phantom(name: str, cache: Path, *changes: str) -> Recipe:
    """The recipe on procedural images at 64 x 64, 4 a batch, with random weights for downloads."""
    classes = '["Pneumonia", "Edema", "Hernia"]'
    sets = ["data.plugin=phantom", f"data.classes={classes}", f"data.findings={classes}"]
    sets += ["data.only=[]", "data.images=90", "data.image_size=64", f"data.cache={cache}"]
    sets += ["run.steps=4", "run.batch_size=4", "metrics=false", "evaluation.protocol=official"]
    if load(name, sets).tables.data.limit is not None:
        sets.append("data.limit=4")
    for table, choice in load(name, sets).choices.items():
        if choice.options.get("weights", "random") != "random" and choice.part.name != AT_HAND:
            sets.append(f"{table}.weights=random")
    return load(name, [*sets, *changes])

"""The hook specifications, one for each kind of part.

A plugin is a module that an entry point of the group ``xraygan`` names. It implements any of these
hooks, and each is called once with a function ``register(name, part)``:

* ``name``: the name in a recipe, for example ``"mmd"`` in ``[scores.mmd]``, or of a command;
* ``part``: a class of that kind (see :mod:`xraygan.parts.interfaces`), or a click command; or
  ``"module:attribute"``, which is imported only when it is needed, so that listing plugins and
  printing help stay fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

hookspec = pluggy.HookspecMarker("xraygan")
hookimpl = pluggy.HookimplMarker("xraygan")

Register = Callable[[str, Any], None]


@hookspec
def xraygan_register_generators(register: Register) -> None:
    """Register :class:`~xraygan.Generator` classes: latent noise to images."""


@hookspec
def xraygan_register_discriminators(register: Register) -> None:
    """Register :class:`~xraygan.Discriminator` classes: images to real/fake logits."""


@hookspec
def xraygan_register_classifiers(register: Register) -> None:
    """Register :class:`~xraygan.Classifier` classes: images to class logits."""


@hookspec
def xraygan_register_scores(register: Register) -> None:
    """Register :class:`~xraygan.Score` classes: regularization terms of a training step."""


@hookspec
def xraygan_register_datasets(register: Register) -> None:
    """Register :class:`~xraygan.Dataset` classes: an index of images, findings and patients."""


@hookspec
def xraygan_register_objectives(register: Register) -> None:
    """Register :class:`~xraygan.Objective` classes: the adversarial losses."""


@hookspec
def xraygan_register_augmenters(register: Register) -> None:
    """Register :class:`~xraygan.Augmenter` classes: changes of the discriminator's images."""


@hookspec
def xraygan_register_labelers(register: Register) -> None:
    """Register :class:`~xraygan.Labeler` classes: labels for generated images."""


@hookspec
def xraygan_register_extractors(register: Register) -> None:
    """Register :class:`~xraygan.Extractor` classes: frozen networks whose features are compared."""


@hookspec
def xraygan_register_metrics(register: Register) -> None:
    """Register :class:`~xraygan.Metric` classes: measurements of a trained run."""


@hookspec
def xraygan_register_trackers(register: Register) -> None:
    """Register :class:`~xraygan.Tracker` classes, which receive the progress of a run."""


@hookspec
def xraygan_register_commands(register: Register) -> None:
    """Register :class:`click.Command` instances: commands of the command line."""

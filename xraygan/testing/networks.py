"""Checks of networks: generators, discriminators, classifiers, extractors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from xraygan.data.metadata import encode
from xraygan.errors import UserError
from xraygan.graph.parameters import trained_parameters
from xraygan.parts.interfaces import Classifier, Discriminator, Extractor, Generator
from xraygan.parts.task import Task
from xraygan.utils.precision import choose_precision

from .checks import Checks, devices, expect, expect_finite, expect_same
from .stand_ins import CLASSES, METADATA, Bench, task

COUNT = 4
SIZES = (32, 64)


def check_generator(
    generator: type[Generator], *, sizes: Sequence[int] = SIZES, **options: Any
) -> list[str]:
    """Check a generator.

    It makes finite images of the right shape in [-1, 1], also in a batch of one, on a GPU if there
    is one, and under bfloat16; other latents (and, if it is conditional, other labels) give other
    images; in evaluation mode the same latents give the same images; every parameter gets a
    gradient; and its state can be saved and loaded.

    Args:
        sizes: the image sizes to try, in pixels; one that it refuses with a UserError is left out,
            unless it refuses all.
        options: the generator's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Generator", generator, options)
    for about, network in _built(checks, sizes):
        _check_generator(checks, about.image_size, network)
    return checks.end()


def _check_generator(checks: Checks, size: int, network: Any) -> None:
    def make(count: int, seed: int = 0, shift: int = 0) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        z = torch.randn(count, network.latent_size, generator=source)
        device = next(network.parameters()).device
        return network(*_given(network, z.to(device), shift))

    with checks("latents"):
        latent = network.latent_size
        expect(isinstance(latent, int) and latent > 0, f"latent_size is {latent!r}")
    with checks("shape"):
        _expect_images(make(COUNT), COUNT, size)
    with checks("range"):
        images = make(64 if size <= 64 else COUNT).detach()
        low, high = float(images.min()), float(images.max())
        within = low >= -1 - 1e-5 and high <= 1 + 1e-5
        expect(within, f"its images are in [{low:.3g}, {high:.3g}]; expected [-1, 1]")
    with checks("latents"):
        one, other = make(COUNT, 0), make(COUNT, 1)
        expect(not torch.equal(one, other), "other latents give the same images")
    if network.conditional:
        with checks("labels"):
            network.eval()
            same = torch.equal(make(COUNT), make(COUNT, shift=1))
            expect(not same, "it is conditional, and other labels give the same images")
    with checks("gradient"):
        network.train()
        _expect_all_learn(network, make(COUNT))
    _check_trained(checks, network, lambda: make(COUNT), lambda: make(1))
    _check_elsewhere(checks, network, lambda: make(COUNT))


def check_discriminator(
    discriminator: type[Discriminator], *, sizes: Sequence[int] = SIZES, **options: Any
) -> list[str]:
    """Check a discriminator.

    That it gives one finite logit an image, in a batch of one too, on a GPU if there is one and
    under bfloat16; the same for the same images; that gradients reach every parameter and the
    images (the generator learns through them); and that its state goes through a file.

    Args:
        sizes: the image sizes to try; see :func:`check_generator`.
        options: the discriminator's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Discriminator", discriminator, options)
    for about, network in _built(checks, sizes):

        def judge(count: int, network: Any = network, about: Task = about) -> Tensor:
            images = _images(count, about.image_size, network)
            return network(*_given(network, images, 0))

        with checks("shape"):
            found = tuple(judge(COUNT).shape)
            expect(found == (COUNT,), f"it returned shape {found}; expected {(COUNT,)}")
        with checks("gradient"):
            network.train()
            images = _images(COUNT, about.image_size, network).requires_grad_()
            _expect_all_learn(network, network(*_given(network, images, 0)), images)
        _check_trained(checks, network, lambda: judge(COUNT), lambda: judge(1))
        _check_elsewhere(checks, network, lambda: judge(COUNT))
    return checks.end()


def check_classifier(
    classifier: type[Classifier], *, sizes: Sequence[int] = (64,), **options: Any
) -> list[str]:
    """Check a classifier, for exclusive classes and for any number of findings.

    That it returns its features ``(N, D)`` and logits ``(N, K)`` by name, all finite, in a batch of
    one too, on a GPU if there is one and under bfloat16; that what a trained one says of an image
    depends on that image alone; that its losses are one number of at least 0 an image; that
    gradients reach every parameter and the images; and that its state goes through a file.

    Args:
        sizes: the image sizes to try; see :func:`check_generator`.
        options: the classifier's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Classifier", classifier, options)
    for exclusive in (True, False):
        for about, network in _built(checks, sizes, exclusive):
            _check_classifier(checks, about, network)
    return checks.end()


def _check_classifier(checks: Checks, about: Task, network: Any) -> None:
    def classify(images: Tensor) -> dict[str, Tensor]:
        told = [_metadata(len(images)).to(images.device)] if network.metadata else []
        return network(images, *told)

    def activations(count: int) -> dict[str, Tensor]:
        return classify(_images(count, about.image_size, network))

    def logits(count: int) -> Tensor:
        return activations(count)["logits"]

    with checks("activations"):
        found = activations(COUNT)
        expect(isinstance(found, dict), f"it returned {type(found).__name__}, not a dict")
        for name in ("features", "logits"):
            expect(name in found, f"it returned {', '.join(found)}; {name!r} is missing")
        shape = tuple(found["logits"].shape)
        wanted = (COUNT, len(about.classes))
        expect(shape == wanted, f"logits have shape {shape}; expected {wanted}")
        features = found["features"]
        expect(features.dim() == 2 and len(features) == COUNT, "features are not (N, D)")
        for name, value in found.items():
            expect_finite(value, f"{name!r}")
    with checks("task"):
        expect(getattr(network, "task", None) == about, "it does not keep its Task as .task")
    with checks("losses"):
        labels = torch.arange(COUNT) % len(about.classes)
        given = labels if about.exclusive else torch.eye(len(about.classes))[labels]
        losses = network.losses(logits(COUNT), given)
        found_shape = tuple(losses.shape)
        expect(found_shape == (COUNT,), f"losses have shape {found_shape}; expected {(COUNT,)}")
        expect_finite(losses, "a loss")
        expect(bool((losses >= 0).all()), "a loss is below 0")
    with checks("gradient"):
        network.train()
        images = _images(COUNT, about.image_size, network).requires_grad_()
        _expect_all_learn(network, classify(images)["logits"], images)
    _check_trained(checks, network, lambda: logits(COUNT), lambda: logits(1))
    _check_elsewhere(checks, network, lambda: logits(COUNT))


def check_extractor(
    extractor: type[Extractor], *, sizes: Sequence[int] = (64,), **options: Any
) -> list[str]:
    """Check an extractor.

    Within a step it returns finite feature maps by name, for the real and the generated batch and
    for other images, grey or with three channels; gradients reach the generated images; and the
    layers that it recommends exist. An extractor that is a network of its own must also do so in a
    batch of one, on a GPU if there is one, and under bfloat16, and its features of an image must
    not depend on the other images of the batch.

    Args:
        sizes: the image sizes to try; see :func:`check_generator`.
        options: the extractor's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Extractor", extractor, options)
    for about, network in _built(checks, sizes):
        _check_extractor(checks, about.image_size, network)
    return checks.end()


def _check_extractor(checks: Checks, size: int, network: Any) -> None:
    network.requires_grad_(False).eval()
    step = Bench(size=size).step(COUNT)
    images = step.fake.detach().requires_grad_()
    with checks("maps"):
        for batch in ("real", "fake", images, images.expand(-1, 3, -1, -1)):
            _expect_maps(network.extract(step, batch))
    with checks("gradient"):
        maps = network.extract(step, images).values()
        value = torch.stack([m.float().square().mean() for m in maps]).sum()
        expect(bool(torch.autograd.grad(value, images)[0].any()), "none reaches the images")
    with checks("recommended layers"):
        returned = network.extract(step, "fake")
        layers = [*(network.style_layers or ())]
        layers += [network.content_layer] if network.content_layer else []
        absent = [name for name in layers if name not in returned]
        expect(not absent, f"it recommends {', '.join(absent)}, and returns no such map")
    try:
        network(images)
    except NotImplementedError:
        return  # it reads what the step has computed, and is no network of its own
    except Exception as error:
        with checks("maps"):
            raise error
        return

    def last_map(count: int) -> Tensor:
        return list(network(_images(count, size, network)).values())[-1]

    _check_trained(checks, network, lambda: last_map(COUNT), lambda: last_map(1))
    _check_elsewhere(checks, network, lambda: last_map(COUNT))


def _expect_maps(found: Any) -> None:
    expect(isinstance(found, dict) and bool(found), "it returned no named maps")
    for name, value in found.items():
        expect(len(value) == COUNT, f"{name!r} is not of {COUNT} images")
        expect_finite(value, f"{name!r}")


# -- what every network is held to -----------------------------------------------------------------


def _built(checks: Checks, sizes: Sequence[int], exclusive: bool = True) -> list[tuple[Task, Any]]:
    """The network at each image size that it does not refuse."""
    found: list[tuple[Task, Any]] = []
    refused = ""
    for size in sizes:
        about = task(exclusive=exclusive, size=size)
        with checks("builds"):
            try:
                found.append((about, checks.build(about)))
            except UserError as error:
                refused = str(error)
    checks.stop_if_failed()
    with checks("builds"):
        expect(bool(found), f"it refuses every size of {', '.join(map(str, sizes))}: {refused}")
    checks.stop_if_failed()
    return found


def _images(count: int, size: int, network: nn.Module) -> Tensor:
    source = torch.Generator()
    # The first images are the same whatever the count.
    images = [torch.rand(1, 1, size, size, generator=source.manual_seed(i)) for i in range(count)]
    parameter = next(network.parameters(), torch.zeros(()))
    return (torch.cat(images) * 2 - 1).to(parameter.device)


def _given(network: Any, first: Tensor, shift: int) -> list[Tensor]:
    """What a network is called with: labels and metadata too, if it is conditional."""
    if not network.conditional:
        return [first]
    k = len(CLASSES)
    labels = (torch.arange(len(first), device=first.device) + shift) % k
    one_hot = torch.nn.functional.one_hot(labels, k).float()
    return [first, torch.cat([one_hot, _metadata(len(first)).to(first.device)], dim=1)]


def _metadata(count: int) -> Tensor:
    """Encoded metadata of so many images."""
    found = {"age": 10.0 * torch.arange(count), "sex": torch.arange(count) % 2.0}
    return encode(found, METADATA, count)


def _expect_images(images: Tensor, count: int, size: int) -> None:
    wanted = (count, 1, size, size)
    found = tuple(images.shape)
    expect(found == wanted, f"it made images of shape {found}; expected {wanted}")
    expect_finite(images, "an image")


def _expect_all_learn(network: nn.Module, output: Tensor, *more: Tensor) -> None:
    """Every trained parameter, and what else is given, gets a finite gradient."""
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    # Not the plain sum: behind a batch norm its gradient is zero by construction.
    source = torch.Generator().manual_seed(0)
    weights = torch.randn(output.shape, generator=source).to(output.device)
    targets = [*trained_parameters(network), *more]
    found = torch.autograd.grad((output.float() * weights).sum(), targets, allow_unused=True)
    places = [*names, *(["the images"] * len(more))]
    idle = [place for place, gradient in zip(places, found, strict=True) if gradient is None]
    shown = ", ".join(idle[:5]) + (" ..." if len(idle) > 5 else "")
    expect(not idle, f"no gradient reaches {shown}; freeze it, or use it")
    for place, gradient in zip(places, found, strict=True):
        if gradient is not None:
            expect_finite(gradient, f"the gradient of {place}")


def _check_trained(
    checks: Checks, network: nn.Module, several: Callable[[], Tensor], one: Callable[[], Tensor]
) -> None:
    """A network in evaluation mode: the same outputs, of each image by itself, from a file too."""
    network.eval()
    with checks("deterministic"), torch.no_grad():
        torch.manual_seed(1)
        first = several()
        torch.manual_seed(2)
        why = "in evaluation mode the same input has another output the second time"
        expect_same(first, several(), why)
    with checks("batch of one"), torch.no_grad():
        alone, among = one(), several()[:1]
        expect_finite(alone, "its output for a batch of one")
        if not isinstance(network, Generator):  # whose latents are drawn for the whole batch
            why = "in evaluation mode its output for an image depends on the others of the batch"
            expect_same(alone, among, why, tolerance=1e-3)
    with checks("file"), torch.no_grad():
        before = several()
        state = {name: value.clone() for name, value in network.state_dict().items()}
        kept = load(save({name: value.contiguous() for name, value in state.items()}))
        for parameter in network.parameters():
            parameter.data = torch.zeros_like(parameter)
        network.load_state_dict(kept)
        expect_same(several(), before, "its output changes when its state is saved and loaded")
    network.train()


def _check_elsewhere(checks: Checks, network: nn.Module, run: Callable[[], Tensor]) -> None:
    """Under bfloat16, and on a GPU if there is one."""
    for device in devices():
        network.to(device)
        for precision in ("bf16",) if device.type == "cpu" else ("fp32", "bf16"):
            where = precision if device.type == "cpu" else f"{device.type}, {precision}"
            with checks(where), torch.no_grad(), choose_precision(precision, device)():
                expect_finite(run(), f"its output in {where}")
    network.to("cpu")

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
from .stand_ins import CLASSES, METADATA, Bench, stand_in_task

COUNT = 4
SIZES = (32, 64)


def check_generator(
    generator: type[Generator], *, sizes: Sequence[int] = SIZES, **options: Any
) -> list[str]:
    """Check a generator.

    It makes finite images of the right shape in [-1, 1], and different images from different
    latents and, if it is conditional, from different labels; also in a batch of one, on a GPU if
    there is one, and under bfloat16. In evaluation mode the same latents give the same images.
    Every parameter gets a gradient, and the state can be saved and loaded.

    Args:
        sizes: the image sizes to try, in pixels; a size that it refuses with a UserError is
            skipped, unless it refuses all.
        options: the generator's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Generator", generator, options)
    for task, network in _built(checks, sizes):
        _check_generator(checks, task.image_size, network)
    return checks.end()


def _check_generator(checks: Checks, size: int, network: Any) -> None:
    with checks("latents"):
        latent = network.latent_size
        expect(isinstance(latent, int) and latent > 0, f"latent_size is {latent!r}")

    def make(count: int, seed: int = 0, shift: int = 0) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        z = torch.randn(count, network.latent_size, generator=source)
        device = next(network.parameters()).device
        return network(*_inputs(network, z.to(device), shift))

    with checks("shape"):
        _expect_images(make(COUNT), COUNT, size)
    with checks("range"):
        images = make(64 if size <= 64 else COUNT).detach()
        low, high = float(images.min()), float(images.max())
        within = low >= -1 - 1e-5 and high <= 1 + 1e-5
        expect(within, f"its images are in [{low:.3g}, {high:.3g}]; expected [-1, 1]")
    with checks("latents"):
        first, second = make(COUNT, 0), make(COUNT, 1)
        expect(not torch.equal(first, second), "different latents give the same images")
    if network.conditional:
        with checks("labels"):
            network.eval()
            same = torch.equal(make(COUNT), make(COUNT, shift=1))
            expect(not same, "it is conditional, but different labels give the same images")
    with checks("gradient"):
        network.train()
        _expect_gradients(network, make(COUNT))
    _check_in_evaluation(checks, network, lambda: make(COUNT), lambda: make(1))
    _check_on_devices(checks, network, lambda: make(COUNT))


def check_discriminator(
    discriminator: type[Discriminator], *, sizes: Sequence[int] = SIZES, **options: Any
) -> list[str]:
    """Check a discriminator.

    It gives one finite logit for each image, also in a batch of one, on a GPU if there is one, and
    under bfloat16. The same images give the same logits. Gradients reach every parameter and the
    images, through which the generator learns. The state can be saved and loaded.

    Args:
        sizes: the image sizes to try; see :func:`check_generator`.
        options: the discriminator's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Discriminator", discriminator, options)
    for task, network in _built(checks, sizes):

        def logits(count: int, network: Any = network, task: Task = task) -> Tensor:
            images = _images(count, task.image_size, network)
            return network(*_inputs(network, images, 0))

        with checks("shape"):
            shape = tuple(logits(COUNT).shape)
            expect(shape == (COUNT,), f"it returned shape {shape}; expected {(COUNT,)}")
        with checks("gradient"):
            network.train()
            images = _images(COUNT, task.image_size, network).requires_grad_()
            _expect_gradients(network, network(*_inputs(network, images, 0)), images)
        _check_in_evaluation(checks, network, lambda: logits(COUNT), lambda: logits(1))
        _check_on_devices(checks, network, lambda: logits(COUNT))
    return checks.end()


def check_classifier(
    classifier: type[Classifier], *, sizes: Sequence[int] = (64,), **options: Any
) -> list[str]:
    """Check a classifier, for exclusive classes and for any number of findings.

    It returns its features ``(N, D)`` and logits ``(N, K)`` by name, all finite, also in a batch of
    one, on a GPU if there is one, and under bfloat16. In evaluation mode its output for an image
    depends on that image alone. Its losses are one number of at least 0 for each image. Gradients
    reach every parameter and the images. The state can be saved and loaded.

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
        for task, network in _built(checks, sizes, exclusive):
            _check_classifier(checks, task, network)
    return checks.end()


def _check_classifier(checks: Checks, task: Task, network: Any) -> None:
    def classify(images: Tensor) -> dict[str, Tensor]:
        metadata = [_metadata(len(images)).to(images.device)] if network.metadata else []
        return network(images, *metadata)

    def activations(count: int) -> dict[str, Tensor]:
        return classify(_images(count, task.image_size, network))

    def logits(count: int) -> Tensor:
        return activations(count)["logits"]

    with checks("activations"):
        maps = activations(COUNT)
        expect(isinstance(maps, dict), f"it returned {type(maps).__name__}, not a dict")
        for name in ("features", "logits"):
            expect(name in maps, f"it returned {', '.join(maps)}; {name!r} is missing")
        shape = tuple(maps["logits"].shape)
        expected = (COUNT, len(task.classes))
        expect(shape == expected, f"logits have shape {shape}; expected {expected}")
        features = maps["features"]
        expect(features.dim() == 2 and len(features) == COUNT, "features are not (N, D)")
        for name, value in maps.items():
            expect_finite(value, f"{name!r}")
    with checks("task"):
        expect(getattr(network, "task", None) == task, "it does not keep its Task as .task")
    with checks("losses"):
        classes = torch.arange(COUNT) % len(task.classes)
        labels = classes if task.exclusive else torch.eye(len(task.classes))[classes]
        losses = network.losses(logits(COUNT), labels)
        shape = tuple(losses.shape)
        expect(shape == (COUNT,), f"losses have shape {shape}; expected {(COUNT,)}")
        expect_finite(losses, "a loss")
        expect(bool((losses >= 0).all()), "a loss is below 0")
    with checks("gradient"):
        network.train()
        images = _images(COUNT, task.image_size, network).requires_grad_()
        _expect_gradients(network, classify(images)["logits"], images)
    _check_in_evaluation(checks, network, lambda: logits(COUNT), lambda: logits(1))
    _check_on_devices(checks, network, lambda: logits(COUNT))


def check_extractor(
    extractor: type[Extractor], *, sizes: Sequence[int] = (64,), **options: Any
) -> list[str]:
    """Check an extractor.

    Within a step it returns finite feature maps by name, for the real and the generated batch and
    for other images, grey or of three channels. Gradients reach the generated images. The layers
    that it recommends exist. An extractor that is a network also works in a batch of one, on a GPU
    if there is one, and under bfloat16, and its maps of an image depend on that image alone.

    Args:
        sizes: the image sizes to try; see :func:`check_generator`.
        options: the extractor's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Extractor", extractor, options)
    for task, network in _built(checks, sizes):
        _check_extractor(checks, task.image_size, network)
    return checks.end()


def _check_extractor(checks: Checks, size: int, network: Any) -> None:
    network.requires_grad_(False).eval()
    step = Bench(size=size).step(COUNT)
    images = step.fake.detach().requires_grad_()
    with checks("maps"):
        for source in ("real", "fake", images, images.expand(-1, 3, -1, -1)):
            _expect_maps(network.extract(step, source))
    with checks("gradient"):
        maps = network.extract(step, images).values()
        value = torch.stack([m.float().square().mean() for m in maps]).sum()
        expect(bool(torch.autograd.grad(value, images)[0].any()), "none reaches the images")
    with checks("recommended layers"):
        layers = [*(network.style_layers or ())]
        layers += [network.content_layer] if network.content_layer else []
        absent = [name for name in layers if name not in network.extract(step, "fake")]
        expect(not absent, f"it recommends {', '.join(absent)}, but returns no such map")
    try:
        network(images)
    except NotImplementedError:
        return  # it only reads results of the step, and is not a network
    except Exception as error:
        with checks("maps"):
            raise error
        return

    def last_map(count: int) -> Tensor:
        return list(network(_images(count, size, network)).values())[-1]

    _check_in_evaluation(checks, network, lambda: last_map(COUNT), lambda: last_map(1))
    _check_on_devices(checks, network, lambda: last_map(COUNT))


def _expect_maps(maps: Any) -> None:
    expect(isinstance(maps, dict) and bool(maps), "it returned no named maps")
    for name, value in maps.items():
        expect(len(value) == COUNT, f"{name!r} is not of {COUNT} images")
        expect_finite(value, f"{name!r}")


# -- checks of every network -----------------------------------------------------------------------


def _built(checks: Checks, sizes: Sequence[int], exclusive: bool = True) -> list[tuple[Task, Any]]:
    """The network at each image size that it does not refuse, with its task."""
    networks: list[tuple[Task, Any]] = []
    refused = ""
    for size in sizes:
        task = stand_in_task(exclusive=exclusive, size=size)
        with checks("builds"):
            try:
                networks.append((task, checks.build(task)))
            except UserError as error:
                refused = str(error)
    checks.stop_if_failed()
    with checks("builds"):
        expect(bool(networks), f"it refuses every size of {', '.join(map(str, sizes))}: {refused}")
    checks.stop_if_failed()
    return networks


def _images(count: int, size: int, network: nn.Module) -> Tensor:
    source = torch.Generator()
    # Each image has its own seed, so that a batch begins with the images of a smaller one.
    images = [torch.rand(1, 1, size, size, generator=source.manual_seed(i)) for i in range(count)]
    parameter = next(network.parameters(), torch.zeros(()))
    return (torch.cat(images) * 2 - 1).to(parameter.device)


def _inputs(network: Any, first: Tensor, shift: int) -> list[Tensor]:
    """The inputs of a network: also labels and metadata if it is conditional."""
    if not network.conditional:
        return [first]
    k = len(CLASSES)
    labels = (torch.arange(len(first), device=first.device) + shift) % k
    one_hot = torch.nn.functional.one_hot(labels, k).float()
    return [first, torch.cat([one_hot, _metadata(len(first)).to(first.device)], dim=1)]


def _metadata(count: int) -> Tensor:
    """Encoded metadata ``(count, 2 M)``."""
    values = {"age": 10.0 * torch.arange(count), "sex": torch.arange(count) % 2.0}
    return encode(values, METADATA, count)


def _expect_images(images: Tensor, count: int, size: int) -> None:
    expected = (count, 1, size, size)
    shape = tuple(images.shape)
    expect(shape == expected, f"it made images of shape {shape}; expected {expected}")
    expect_finite(images, "an image")


def _expect_gradients(network: nn.Module, output: Tensor, *images: Tensor) -> None:
    """Expect a finite gradient for every trained parameter and for the images."""
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    # A weighted sum: after a batch norm the gradient of the plain sum is zero.
    source = torch.Generator().manual_seed(0)
    weights = torch.randn(output.shape, generator=source).to(output.device)
    targets = [*trained_parameters(network), *images]
    gradients = torch.autograd.grad((output.float() * weights).sum(), targets, allow_unused=True)
    names += ["the images"] * len(images)
    idle = [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]
    listed = ", ".join(idle[:5]) + (" ..." if len(idle) > 5 else "")
    expect(not idle, f"no gradient reaches {listed}; freeze it, or use it")
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:
            expect_finite(gradient, f"the gradient of {name}")


def _check_in_evaluation(
    checks: Checks, network: nn.Module, several: Callable[[], Tensor], one: Callable[[], Tensor]
) -> None:
    """Check a network in evaluation mode: equal outputs, images one by one, and its saved state."""
    network.eval()
    with checks("deterministic"), torch.no_grad():
        torch.manual_seed(1)
        first = several()
        torch.manual_seed(2)
        why = "in evaluation mode the same input gives another output the second time"
        expect_same(first, several(), why)
    with checks("batch of one"), torch.no_grad():
        alone, first = one(), several()[:1]
        expect_finite(alone, "its output for a batch of one")
        if not isinstance(network, Generator):  # its latents are drawn for the whole batch
            why = "in evaluation mode its output for an image depends on the others of the batch"
            expect_same(alone, first, why, tolerance=1e-3)
    with checks("file"), torch.no_grad():
        before = several()
        state = {name: value.clone() for name, value in network.state_dict().items()}
        saved = load(save({name: value.contiguous() for name, value in state.items()}))
        for parameter in network.parameters():
            parameter.data = torch.zeros_like(parameter)
        network.load_state_dict(saved)
        expect_same(several(), before, "its output changes when its state is saved and loaded")
    network.train()


def _check_on_devices(checks: Checks, network: nn.Module, run: Callable[[], Tensor]) -> None:
    """Check a network under bfloat16, and on a GPU if there is one."""
    for device in devices():
        network.to(device)
        for precision in ("bf16",) if device.type == "cpu" else ("fp32", "bf16"):
            where = precision if device.type == "cpu" else f"{device.type}, {precision}"
            with checks(where), torch.no_grad(), choose_precision(precision, device)():
                expect_finite(run(), f"its output in {where}")
    network.to("cpu")

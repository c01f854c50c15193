"""Checks of parts that compute from a training step: scores, objectives, labelers, augmenters."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import torch
from safetensors.torch import load, save
from torch import Tensor

from xraygan.errors import UserError
from xraygan.graph.parameters import trained_parameters
from xraygan.graph.step import TrainingStep
from xraygan.parts.contracts import scalar
from xraygan.parts.interfaces import Augmenter, Labeler, Objective, Score

from .checks import Checks, Failure, devices, expect, expect_finite, expect_same
from .stand_ins import Bench, checked

Compute = Callable[[TrainingStep], Tensor]
ORDER = torch.tensor([4, 2, 0, 5, 1, 3])


def check_score(score: type[Score], *, order_matters: bool = False, **options: Any) -> list[str]:
    """Check a score.

    It is one finite number in at least float32, also in a batch of one, on a GPU if there is one,
    and under bfloat16. It is the same for the same step, and for the batch in another order. Every
    network that learns from it gets a gradient. It does not change the step.

    Args:
        order_matters: skip the check of the batch's order, for a score that compares neighbours.
        options: the score's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Score", score, options)
    policies = (True,) if score.exclusive_only else (True, False)
    for exclusive in policies:
        bench = Bench(exclusive=exclusive, averages=score.averages)
        with checks("builds"):
            part = checks.build(bench.task)
        checks.stop_if_failed()
        _check_term(checks, bench, part, order_matters)
        with checks("gradient"):
            _expect_gradients(bench.step(), part, score.trains, trained_parameters(part))
    for device in devices():
        _check_on_device(checks, device, checks.build(bench.task).to(device), score.averages)
    return checks.end()


def check_objective(
    objective: type[Objective], *, order_matters: bool = False, **options: Any
) -> list[str]:
    """Check an objective.

    Both losses are one finite number, also in a batch of one, on a GPU if there is one, and under
    bfloat16. They are the same for the same step, and for the batch in another order. The generator
    learns from the first and the discriminator from the second. They do not change the step.

    Args:
        order_matters: skip the check of the batch's order, for an objective that draws a number for
            each image.
        options: the objective's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Objective", objective, options)
    bench = Bench()
    with checks("builds"):
        part = checks.build()
    checks.stop_if_failed()
    for name in ("generator", "discriminator"):
        loss = getattr(part, f"{name}_loss")
        _check_term(checks, bench, loss, order_matters)
        with checks("gradient"):
            _expect_gradients(bench.step(), loss, (name,), [])
    for device in devices():
        for name in ("generator", "discriminator"):
            _check_on_device(checks, device, getattr(part, f"{name}_loss"))
    return checks.end()


def check_labeler(labeler: type[Labeler], **options: Any) -> list[str]:
    """Check a labeler.

    It gives every generated image a label and a weight of at least 0, with the shapes and types
    that the classifier learns from and without gradients, also in a batch of one. They are the same
    for the same step. It only reads the averages that its ``averages`` name.

    Args:
        options: the labeler's options, as a recipe sets them.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Labeler", labeler, options)
    refused = []
    for exclusive in (True, False):
        bench = Bench(exclusive=exclusive, averages=labeler.averages)
        with checks("builds"):
            try:
                part = checks.build(bench.task)
            except UserError as error:  # it may support only exclusive classes, or only findings
                refused.append(str(error))
                continue
        checks.stop_if_failed()
        for count in (6, 1):
            with checks("labels" if count > 1 else "batch of one"):
                labels, weights = part.label(bench.step(count))
                _expect_labels(bench, labels, weights, count)
            checks.stop_if_failed()
        with checks("deterministic"):
            first, second = _twice(partial(_label, part, bench))
            for a, b in zip(first, second, strict=True):
                expect_same(a, b, "the same step was labelled differently the second time")
        with checks("leaves the step"):
            _expect_untouched(bench.step(), part.label)
    with checks("builds"):
        expect(len(refused) < 2, "it refuses every task: " + "; ".join(refused))
    return checks.end()


def check_augmenter(augmenter: type[Augmenter], **options: Any) -> list[str]:
    """Check an augmenter.

    It gives finite images of the same shape, also in a batch of one and on a GPU if there is one.
    They are the same for the same step, also if the batch is processed in parts. Gradients reach
    the images, and can be differentiated again. A step that was skipped changes nothing. It does
    not change the step, and its state can be saved and loaded.

    Args:
        options: the augmenter's options, as a recipe sets them, with which it changes images.

    Returns:
        The names of the checks.

    Raises:
        CheckFailed: with every check that failed, and why.
    """
    checks = Checks("Augmenter", augmenter, options)
    with checks("builds"):
        part = checks.build()
    checks.stop_if_failed()
    for device in devices():
        _check_changes(checks, Bench(device=device), part.to(device))
    with checks("file"):
        part.cpu()
        part.watch(torch.ones(6))
        part.adapt(None)
        again, before = checks.build(seed=1), part(Bench().step().real, Bench().step())
        again.load_state_dict(load(save(dict(part.state_dict()))))
        why = "its changes are others when its state is saved and loaded"
        expect_same(again(Bench().step().real, Bench().step()), before, why)
    return checks.end()


def _check_changes(checks: Checks, bench: Bench, part: Augmenter) -> None:
    def change(step: TrainingStep) -> Tensor:
        return part(step.real, step)

    for count in (6, 1):
        with checks("images" if count > 1 else "batch of one"):
            step = bench.step(count)
            changed, expected = change(step), tuple(step.real.shape)
            shape = tuple(changed.shape)
            expect(shape == expected, f"it returned shape {shape}; expected {expected}")
            expect_finite(changed, "an image")
    checks.stop_if_failed()
    with checks("deterministic"):
        why = "the same step is changed in another way the second time; draw from step.rng alone"
        expect_same(*_twice(lambda: change(bench.step())), why)
    with checks("parts of a batch"):
        parts = [change(bench.step(shard=(i, 2))) for i in range(2)]
        why = "in parts a batch is changed in another way; draw through step.draw alone"
        expect_same(torch.cat(parts), change(bench.step()), why, tolerance=1e-5)
    with checks("gradient"):
        _expect_twice_differentiable(bench.step(), part)
    with checks("held"):
        before = change(bench.step())
        # NaN logits may be the reason that a step is skipped.
        part.watch(torch.full((6,), torch.nan, device=bench.device))
        part.adapt(torch.ones((), device=bench.device))
        why = "it adapts to a step that was skipped (held is 1)"
        expect_same(change(bench.step()), before, why)
    with checks("leaves the step"):
        _expect_untouched(bench.step(), change)


def _expect_twice_differentiable(step: TrainingStep, part: Augmenter) -> None:
    """Expect second derivatives through the changes, as penalties need them."""
    images = step.real.detach().requires_grad_()
    value = part(images, step).pow(3).mean()
    expect(
        value.requires_grad, "no gradient passes through it: its result is detached from the images"
    )
    (gradient,) = torch.autograd.grad(value, images, create_graph=True)
    expect(bool(gradient.any()), "no gradient reaches the images")
    expect_finite(gradient, "its gradient")
    (again,) = torch.autograd.grad(gradient.square().sum(), images)
    expect_finite(again, "its gradient's gradient")


# -- checks of every term --------------------------------------------------------------------------


def _check_term(checks: Checks, bench: Bench, compute: Compute, order_matters: bool) -> None:
    with checks("scalar"):
        scalar(compute(bench.step()), bench.device)
    checks.stop_if_failed()
    with checks("finite"):
        expect_finite(compute(bench.step()), "its value")
    with checks("batch of one"):
        value = scalar(compute(bench.step(1)), bench.device)
        expect_finite(value, "its value in a batch of one image")
    with checks("deterministic"):
        first, second = _twice(lambda: compute(bench.step()))
        why = "the same step has another value the second time; draw from step.rng alone"
        expect_same(first.detach(), second.detach(), why)
    if not order_matters and "deterministic" not in checks.failures:
        with checks("order of the batch"):
            plain, other = compute(bench.step()), compute(bench.step(order=ORDER))
            why = "the same images in another order have another value"
            expect_same(plain.detach(), other.detach(), why, tolerance=1e-4)
    with checks("leaves the step"):
        _expect_untouched(bench.step(), compute)
    with checks("keeps no step"):
        _expect_nothing_kept(bench, compute)


def _check_on_device(
    checks: Checks, device: torch.device, compute: Compute, averages: tuple[str, ...] = ()
) -> None:
    """Check a term on a device in bfloat16, and on a GPU also in float32."""
    for precision in ("bf16",) if device.type == "cpu" else ("fp32", "bf16"):
        with checks(precision if device.type == "cpu" else f"{device.type}, {precision}"):
            bench = Bench(device=device, precision=precision, averages=averages)
            value = scalar(compute(bench.step()), device)
            expect_finite(value, f"its value where networks run in {precision}")


def _expect_gradients(
    step: TrainingStep,
    compute: Compute,
    audience: tuple[str, ...],
    parameters: list[torch.nn.Parameter],
) -> None:
    """Expect a finite gradient that is not zero for each network that learns from a term."""
    value = compute(step)
    expect(value.requires_grad, f"nothing can be learned from it: it is detached from {audience}")
    towards: dict[str, list[Tensor]] = {
        name: [step.fake] if name == "generator" else [*trained_parameters(step.networks[name])]
        for name in audience
        if name in step.networks
    }
    if parameters:
        towards["its own networks"] = list(parameters)
    for name, targets in towards.items():
        gradients = torch.autograd.grad(value, targets, retain_graph=True, allow_unused=True)
        reached = [gradient for gradient in gradients if gradient is not None]
        if not any(gradient.any() for gradient in reached):
            raise Failure(f"no gradient reaches {name}, which learns from it")
        for gradient in reached:
            expect_finite(gradient, f"its gradient towards {name}")


def _expect_untouched(step: TrainingStep, compute: Callable[[TrainingStep], Any]) -> None:
    before = {name: getattr(step, name) for name in ("real", "labels", "fake", "z", "fake_probs")}
    values = {name: tensor.detach().clone() for name, tensor in before.items()}
    state = {
        name: {key: value.clone() for key, value in network.state_dict().items()}
        for name, network in step.networks.items()
    }
    with step.watch.over(step, checked("score")):
        compute(step)
    for name, value in values.items():
        expect_same(
            getattr(step, name).detach(), value, f"it changed step.{name}, which others read"
        )
    for name, network in step.networks.items():
        for key, value in network.state_dict().items():
            expect_same(value, state[name][key], f"it changed {key} of the {name}")


def _expect_nothing_kept(bench: Bench, compute: Compute) -> None:
    """Expect that a part keeps at most one of the steps: keeping all would exhaust the memory."""
    steps: list[list[ReferenceType[Any]]] = []
    for _ in range(3):
        step = bench.step()
        value = compute(step)
        steps.append([ref(step), ref(step.fake), ref(value)])
        del step, value
    gc.collect()
    alive = [any(reference() is not None for reference in seen) for seen in steps]
    expect(sum(alive) < 2, "it keeps every step with its graph; keep detach() or item() of them")


def _expect_labels(bench: Bench, labels: Any, weights: Any, count: int) -> None:
    k = len(bench.task.classes)
    for name, value in (("labels", labels), ("weights", weights)):
        expect(isinstance(value, Tensor), f"{name} are {type(value).__name__}, not a tensor")
        expect(not value.requires_grad, f"{name} have a gradient; detach them")
    expected = (count,) if bench.task.exclusive else (count, k)
    how = "one class an image" if bench.task.exclusive else "any findings an image"
    shape = tuple(labels.shape)
    expect(shape == expected, f"labels have shape {shape}; expected {expected} for {how}")
    if bench.task.exclusive:
        expect(labels.dtype == torch.int64, f"labels are {labels.dtype}; expected int64")
    else:
        expect(labels.is_floating_point(), f"labels are {labels.dtype}; expected float")
    inside = labels.min() >= 0 and labels.max() <= (k - 1 if bench.task.exclusive else 1)
    expect(bool(inside), "labels are out of range")
    shape = tuple(weights.shape)
    expect(shape == (count,), f"weights have shape {shape}; expected {(count,)}")
    expect(weights.is_floating_point(), f"weights are {weights.dtype}; expected float")
    expect_finite(weights, "a weight")
    expect(bool((weights >= 0).all()), "a weight is below 0")


def _label(part: Labeler, bench: Bench) -> tuple[Tensor, Tensor]:
    return part.label(bench.step())


def _twice(compute: Callable[[], Any]) -> tuple[Any, Any]:
    """The result of a function twice, with different global random numbers of torch."""
    torch.manual_seed(1)
    first = compute()
    torch.manual_seed(2)
    return first, compute()

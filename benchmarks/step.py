"""The training step against its bare network passes, and against a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import click
import torch
from common import Report, benchmark, in_turn, median, seconds_of
from plain import PlainLoop
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from xraygan import Task
from xraygan.distributed.ranks import DistributedContext
from xraygan.graph.build import assemble
from xraygan.graph.streams import Streams
from xraygan.recipe.loading import Recipe, load
from xraygan.training.capture import CapturedSteps, Taken
from xraygan.training.nonfinite import NonFiniteGuard
from xraygan.utils.precision import (
    choose_device,
    choose_precision,
    flushed_denormals,
    keep_freed_memory,
    make_deterministic,
)
from xraygan.utils.seeding import derive_seed, rng

CLASSES = ("Pneumonia", "Edema", "Hernia")
SMALL = (
    "data.image_size=32", "generator.width=4", "discriminator.width=4",
    "classifier.plugin=resnet18", "run.batch_size=4",
)  # fmt: skip
#: networks start here at random, and every pseudo-label counts, so that all terms are at work
SET = ("classifier.weights=random", "extractors.vgg19.weights=random", "labeler.threshold=0.3")


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is a format of the processor's own, not an imitation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities: dict[str, Any] = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Case:
    """The step of a recipe on one batch of random images.

    Attributes:
        graph: as `xraygan run` trains it.
        real, labels: the batch.
    """

    def __init__(self, recipe: Recipe, precision: str) -> None:
        words = recipe.tables.run
        self.recipe = recipe
        self.device = choose_device(words.device)
        self.autocast = choose_precision(precision, self.device)
        size = recipe.tables.data.image_size
        task = Task(size, CLASSES, exclusive=True)
        self.graph = assemble(recipe, task, self.device, self.autocast)
        if words.compile == "default":
            for network in (*self.graph.networks.values(), *self.graph.extractors.values()):
                network.compile()
        self.captured: CapturedSteps | None = None
        if words.compile == "graphs" and self.device.type == "cuda":
            self.captured = CapturedSteps(self.device, list(self.graph.optimizers.values()))
        source = rng(self.device, 0, "benchmark")
        count = words.batch_size
        self.real = torch.rand(count, 1, size, size, generator=source, device=self.device) * 2 - 1
        self.labels = torch.arange(count, device=self.device) % len(CLASSES)
        self.guard = NonFiniteGuard(self.device, DistributedContext())
        self.steps = 0

    def train(self) -> dict[str, Tensor]:
        """One training step; returns its terms."""
        self.graph.prepare(self.steps, 0.0)
        given, seed = [self.real, self.labels], derive_seed(0, "latent", self.steps)
        self.steps += 1
        if self.captured:
            return self.captured.take("step", given, seed, self.take)
        return self.take(given, Streams(self.device, seed)).values

    def take(self, batch: Sequence[Tensor], streams: Streams) -> Taken:
        """The step of a batch."""
        values, gradients = self.graph.gradients(self.graph.step(*batch, streams))
        self.guard.check(0, values, gradients)
        self.graph.apply(gradients, self.guard.found_inf)
        return Taken(values, [])

    def latent(self, step: int) -> Tensor:
        """What the generator is given in that step."""
        return self.graph.step(self.real, self.labels, rng(self.device, 0, "latent", step)).z


def bare_passes(case: Case) -> dict[str, Callable[[], object]]:
    """Every pass that the step's mathematics asks of each network, and nothing else.

    Forward on each batch that it must see; backward to its parameters from both, and to the
    generated images, whose gradient is another one than that of its own losses.
    """
    graph, autocast = case.graph, case.autocast
    real = case.real
    fake = graph.step(real, case.labels, rng(case.device, 0, "latent", 0)).generated.detach()
    z = case.latent(0)

    def both(name: str, read: Callable[[Any], Tensor]) -> Callable[[], object]:
        network = graph.networks[name]
        parameters = list(network.parameters())

        def run() -> object:
            images = fake.detach().requires_grad_()
            with autocast():
                outputs = [read(network(real)), read(network(images))]
            ones = [torch.ones_like(output) for output in outputs]
            theirs = torch.autograd.grad(outputs, parameters, ones, retain_graph=True)
            return theirs, torch.autograd.grad(outputs[1], images, ones[1])

        return run

    def generator() -> object:
        network = graph.networks["generator"]
        with autocast():
            made = network(z)
        return torch.autograd.grad(made, list(network.parameters()), torch.ones_like(made))

    def extractor(images: Tensor, *, learn: bool) -> Callable[[], object]:
        network = graph.extractors["vgg19"]

        def run() -> object:
            given = images.detach().requires_grad_(learn)
            with torch.set_grad_enabled(learn), autocast():
                maps = list(network(given).values())
            ones = [torch.ones_like(one) for one in maps]
            return torch.autograd.grad(maps, given, ones) if learn else maps

        return run

    return {
        "generator": generator,
        "discriminator, real and generated": both("discriminator", lambda scores: scores),
        "classifier, real and generated": both("classifier", lambda found: found["logits"]),
        "transfer network": transfer_pass(case, fake, graph.networks["style_transfer"].transfer),
        "VGG-19, real, forward": extractor(real, learn=False),
        "VGG-19, generated": extractor(fake, learn=True),
        "VGG-19, stylized": extractor(fake, learn=True),
    }


def transfer_pass(case: Case, fake: Tensor, network: nn.Module) -> Callable[[], object]:
    """Forward and backward of a transfer network."""

    def run() -> object:
        images = fake.detach().requires_grad_()
        with case.autocast():
            made = network(torch.cat([case.real, images], dim=1))
        return torch.autograd.grad(made, [*network.parameters(), images], torch.ones_like(made))

    return run


def transfer_formats(case: Case) -> dict[str, Callable[[], object]]:
    """The pass of the transfer network, whose instance norm reads planes, in both formats."""
    network = case.graph.networks["style_transfer"].transfer
    formats = {"planes": torch.contiguous_format, "channels_last": torch.channels_last}
    return {
        name: transfer_pass(case, case.real, deepcopy(network).to(memory_format=form))
        for name, form in formats.items()
    }


def waiting(call: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """A call that is over when the device is done."""

    def run() -> float:
        def whole() -> None:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return seconds_of(whole)

    return run


def largest_difference(case: Case, plain: PlainLoop) -> float:
    """The largest relative difference of a term between one step of both, from the same weights."""
    ours = case.train()
    theirs = plain.step(case.real, case.labels, case.latent(0))
    assert ours.keys() == theirs.keys()
    return max(abs(float(ours[n]) - theirs[n]) / max(abs(theirs[n]), 1e-3) for n in theirs)


@benchmark
@click.option("--batch", type=int, default=12, show_default=True)
@click.option("--size", type=int, default=128, show_default=True, help="Pixels.")
@click.option("--precision", default="best", show_default=True, help="best: bf16 where it is real.")
@click.option("--compile", "mode", default="off", show_default=True, help="[run] compile.")
@click.option("--repetitions", type=int, default=5, show_default=True)
def main(fast: bool, batch: int, size: int, precision: str, mode: str, repetitions: int) -> Report:
    """The step of ucgan_full with all terms (ResNet-50, VGG-19), on random images: against the sum
    of its networks' passes alone, and against benchmarks/plain.py."""
    make_deterministic()
    keep_freed_memory()  # as a run does; the plain loop profits too
    given = [f"run.batch_size={batch}", f"data.image_size={size}"]
    recipe = load("ucgan_full", [*SET, *(SMALL if fast else given), f"run.compile={mode}"])
    device = choose_device("auto")
    if precision == "best":
        precision = "bf16" if has_bf16(device) else "fp32"
    exact = Case(load("ucgan_full", [*SET, *(SMALL if fast else given)]), "fp32")
    difference = largest_difference(exact, PlainLoop(exact.graph, exact.recipe))
    case = Case(recipe, precision)
    plain = PlainLoop(case.graph, recipe)
    passes, formats = bare_passes(case), transfer_formats(case)
    z = case.latent(0)
    candidates: dict[str, Callable[[], float | None]] = {
        "step": waiting(case.train, device),
        "plain": waiting(lambda: plain.step(case.real, case.labels, z), device),
        **{name: waiting(call, device) for name, call in (passes | formats).items()},
    }
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # Three times, for the process to have all the memory that it will ask for, as a long run has.
    with flushed_denormals():  # as a run does, for this discriminator is soon sure of its noise
        found = in_turn(candidates, repetitions, warm_up=3)
    seconds = {name: median(figures) for name, figures in found.items()}
    words = recipe.tables
    report = Report(
        f"ucgan_full: batch {words.run.batch_size}, {words.data.image_size} x "
        f"{words.data.image_size}, {precision}, compile {mode}"
    )
    bare = sum(seconds[name] for name in passes)
    report.add("training step", seconds["step"], "s")
    report.add("plain loop, fp32", seconds["plain"], "s", seconds["step"], "training step")
    report.add("sum of the bare passes", bare, "s")
    report.add("training step", seconds["step"], "s", bare, "sum of the bare passes")
    for name in passes:
        report.add(f"  {name}", seconds[name], "s", bare, "sum of the bare passes")
    report.add("transfer network in channels_last", seconds["channels_last"], "s")
    report.add("in planes", seconds["planes"], "s", seconds["channels_last"], "channels_last")
    report.notes.append(
        f"Both loops' terms on the same weights and batch differ by at most {difference:.1e} "
        "(relative, fp32)."
    )
    if device.type == "cuda":
        kernels = kernel_seconds(case.train)
        report.add("kernels of the step", kernels, "s")
        report.add("training step", seconds["step"], "s", kernels, "kernels of the step")
        bare_kernels = kernel_seconds(*passes.values())
        report.add("kernels of the bare passes", bare_kernels, "s")
        report.add("training step", seconds["step"], "s", bare_kernels, "kernels of the passes")
        peak = peak_memory(recipe, precision)
        report.add("peak memory of a step", peak, "GiB")
    return report


def kernel_seconds(*calls: Callable[[], object], times: int = 5) -> float:
    """The seconds that a GPU computes in each round of calls, without pauses between kernels."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(times):
            for call in calls:
                call()
        torch.cuda.synchronize()
    kernels = [event for event in found.events() or () if event.device_type.name == "CUDA"]
    return float(sum(event.self_device_time_total for event in kernels)) / times / 1e6


def peak_memory(recipe: Recipe, precision: str) -> float:
    """GiB that one step's tensors and networks take on the GPU."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    case = Case(recipe, precision)
    case.train()
    case.train()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


if __name__ == "__main__":
    main()

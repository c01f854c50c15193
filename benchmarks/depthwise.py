"""EfficientNet-Lite0 and its gradients on a processor: our depthwise convolutions, and PyTorch's.

python benchmarks/depthwise.py --threads 1
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click
import timm
import torch
from common import Report, benchmark, in_turn, median, seconds_of
from torch import Tensor, nn
from xraygan_timm.backbones import accelerate_same_padding

from xraygan.utils.depthwise import accelerate_depthwise


def training(network: nn.Module, images: Tensor, precision: str) -> Callable[[], object]:
    """A pass of a network and one back, to its parameters and to the images."""
    parameters = list(network.parameters())

    def run() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            features = network(images)
        return torch.autograd.grad(features.float().sum(), [*parameters, images])

    return run


@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--batch", type=int, default=16, show_default=True)
@click.option("--repetitions", type=int, default=9, show_default=True)
@benchmark
def main(fast: bool, threads: int, batch: int, repetitions: int) -> Report:
    """Time both, alternately, in images of 64 and 128 pixels, float32 and bfloat16."""
    torch.set_num_threads(threads)
    sizes, repetitions, batch = ((32, 64), 1, 2) if fast else ((64, 128), repetitions, batch)
    ours, theirs = (
        timm.create_model("tf_efficientnet_lite0", in_chans=1, num_classes=0)
        .to(memory_format=torch.channels_last)
        for _ in range(2)
    )  # fmt: skip
    accelerate_same_padding(ours)
    accelerate_depthwise(ours)
    report = Report(f"EfficientNet-Lite0, a pass and its gradients, batch {batch}")
    for size in sizes:
        images = torch.rand(batch, 1, size, size, requires_grad=True)
        for precision in ("fp32", "bf16"):
            timed = {
                name: partial(seconds_of, training(network, images, precision))
                for name, network in (("ours", ours), ("PyTorch's", theirs))
            }
            found = {n: median(f) for n, f in in_turn(timed, repetitions, warm_up=2).items()}
            name = f"{size} x {size}, {precision}"
            report.add(f"{name}, PyTorch's", found["PyTorch's"], "s")
            report.add(name, found["ours"], "s", found["PyTorch's"], "PyTorch's")
    return report


if __name__ == "__main__":
    main()

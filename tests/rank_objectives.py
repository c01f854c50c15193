"""Every objective with penalties, as one of several ranks computes it, for test_ranks.py."""

from __future__ import annotations

from typing import Any

import torch
from conftest import gan
from safetensors.torch import save_file
from torch import Tensor

from xraygan import Task
from xraygan.distributed.ranks import DistributedContext, join_process_group
from xraygan.graph.build import assemble
from xraygan.utils.seeding import rng

DCGAN = {"plugin": "dcgan", "width": 4}
ADA = {"plugin": "ada", "start": 0.7, "images": 60}
#: objective -> the discriminator, the augmenter; both of the former have batch norms
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "minmax": (DCGAN, {"augmenter": ADA}),
    "hinge": (DCGAN, {"augmenter": {"plugin": "diffaugment"}}),
    "least_squares": (DCGAN, {}),
    "relativistic": (DCGAN, {}),
    "wgan_gp": ({"plugin": "cgan", "dropout": 0.0}, {"augmenter": ADA}),
}


def compute(ranks: DistributedContext) -> dict[str, Tensor]:
    """Terms, gradients and the state of the augmenter of a step of each case, in float64."""
    torch.set_default_dtype(torch.float64)
    found: dict[str, Tensor] = {}
    n, share = 12, 12 // ranks.count
    mine = slice(ranks.index * share, (ranks.index + 1) * share)
    for name, (judge, augmenter) in CASES.items():
        generator = {key: judge[key] for key in ("plugin", "width") if key in judge}
        objective = {"plugin": name, "r1": 0.5, "r2": 2.0}
        recipe = gan(generator=generator, discriminator=judge, objective=objective, **augmenter)
        graph = assemble(recipe, Task(32, ("Edema", "Mass"), exclusive=True), ranks=ranks)
        real = torch.rand(n, 1, 32, 32, generator=rng("cpu", 0, "real")) * 2 - 1
        step = graph.step(
            real[mine],
            (torch.arange(n) % 2)[mine],
            rng("cpu", 0, "latent"),
            shard=(ranks.index, ranks.count),
        )
        values, own = graph.gradients(step)
        gradients = graph.mean_over_ranks(own)
        said = ranks.average({k: float(v) for k, v in (values | step.records).items()})
        found |= {f"{name} {key}": torch.tensor(value) for key, value in said.items()}
        for network, mean in gradients.items():
            flat = [g.flatten() for g in mean if g is not None]
            found[f"{name} gradient of the {network}"] = torch.cat(flat)
        graph.update(gradients, 0)
        for key, buffer in graph.networks.get("augmenter", torch.nn.Module()).named_buffers():
            found[f"{name} {key}"] = buffer
    return found


def write(out: str) -> None:
    """Compute as one of several ranks, into OUT and the rank's number."""
    torch.set_num_threads(1)
    with join_process_group("cpu") as ranks:
        computed = compute(ranks)
    save_file({name: t.contiguous() for name, t in computed.items()}, f"{out}{ranks.index}")

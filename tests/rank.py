"""One rank of a small graph's training, for test_ranks.py; writes what it came to."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from xraygan import Task
from xraygan.distributed.ranks import join_process_group
from xraygan.graph.build import assemble
from xraygan.recipe.loading import load
from xraygan.utils.seeding import rng


def train(out: str, precision: str, steps: str, count: str, recipe: str, *overrides: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, precision))
    chosen = load(recipe, overrides)
    words = chosen.tables.data
    classes, told = ("Pneumonia", "Edema", "Hernia"), tuple(words.metadata)
    task = Task(32, classes, words.label_policy == "single", metadata=told)
    values = []
    with join_process_group("cpu") as ranks:
        graph = assemble(chosen, task, ranks=ranks)
        whole = int(count)
        share = whole // ranks.count
        mine = slice(ranks.index * share, (ranks.index + 1) * share)
        for step in range(int(steps)):
            source = rng("cpu", step, "real")
            real = torch.rand(whole, 1, 32, 32, generator=source) * 2 - 1
            labels = torch.randint(3, (whole,), generator=source)
            if not task.exclusive:
                labels = torch.rand(whole, 3, generator=source).round()
            current = graph.step(
                real[mine],
                labels[mine],
                rng("cpu", step, "latent"),
                metadata={"age": 30.0 + 10 * torch.arange(whole)[mine]},
                unlabelled=real.flip(0)[mine],
                progress=0.9,
                shard=(ranks.index, ranks.count),
            )
            found, gradients = graph.gradients(current)
            graph.update(graph.mean_over_ranks(gradients), step)
            values.append(ranks.average({name: float(value) for name, value in found.items()}))
        if ranks.first:
            every = {**graph.networks, **{f"{n} average": a for n, a in graph.ema.items()}}
            tensors = {
                f"{name}.{key}": value.contiguous()
                for name, network in every.items()
                for key, value in network.state_dict().items()
            }
            save_file(tensors, f"{out}.safetensors")
            Path(f"{out}.json").write_text(json.dumps(values))

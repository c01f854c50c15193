"""What a training step is taken of: its batch, its random numbers, and the networks that learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xraygan.data.batches import Batches, Drawn
from xraygan.distributed.ranks import DistributedContext
from xraygan.graph.step import TrainingStep
from xraygan.graph.streams import Streams
from xraygan.session.session import Session
from xraygan.utils.seeding import derive_seed


class StepSource:
    """The steps of a run, as one of its ranks takes them.

    Which images, which random numbers and which networks learn is a function of the seed and the
    step alone, so the same step can be built again, after a resume or for a diagnosis.

    Args:
        total: the steps of the run.

    Attributes:
        batches: of the training images.
        unlabelled: of images without labels, if the recipe asks for them.

    Raises:
        UserError: the batch cannot be shared equally by the ranks and micro-batches.
    """

    def __init__(self, session: Session, total: int, ranks: DistributedContext) -> None:
        self.session = session
        self.config = session.recipe.tables.run
        self.total = total
        self.ranks = ranks
        self.batches = self._batches("train")
        self.unlabelled: Batches | None = None
        if session.recipe.tables.data.unlabelled:
            self.unlabelled = self._batches("unlabelled")

    def _batches(self, split: str) -> Batches:
        recipe, data = self.session.recipe.tables, self.session.data
        generated = data.generated if split == "train" else None
        periods = []
        if generated is not None:
            periods = generated.periods(len(data.splits["train"]), self.total)
        return Batches(
            data.splits[split],
            recipe.data,
            more=None if generated is None else generated.split,
            periods=periods,
            exclusive=self.session.data.task.exclusive,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            device=self.session.device,
            stream="" if split == "train" else f"{split} ",
        )

    def build(self, step: int, micro_batch: int) -> TrainingStep:
        """The step of this rank's rows of one micro-batch."""
        index = micro_batch * self.ranks.count + self.ranks.index
        shard = (index, self.config.accumulate * self.ranks.count)
        drawn = self.draw(step, shard)
        self.seed_global_stream(step, index)
        streams = Streams(self.session.device, self.streams_seed(step))
        return self.step_of(drawn, streams, step / self.total, self.learning(step), shard)

    def seed_global_stream(self, step: int, index: int = 0) -> None:
        """Seed PyTorch's global generator, for code that draws from it outside of any term.

        Args:
            index: of the micro-batch, counted over all ranks.
        """
        torch.manual_seed(derive_seed(self.config.seed, "step", step, *([index] if index else [])))

    def streams_seed(self, step: int) -> int:
        """The seed of a step's :class:`~xraygan.graph.streams.Streams`, equal on all ranks."""
        return derive_seed(self.config.seed, "latent", step)

    def draw(self, step: int, shard: tuple[int, int] = (0, 1)) -> list[Drawn]:
        """What a step's batch is made of, and that of images without labels, if there is one."""
        return [one.draw(step, shard) for one in (self.batches, self.unlabelled) if one]

    def learning(self, step: int) -> frozenset[str]:
        """The networks that learn in a step."""
        phase = self.session.recipe.tables.schedule.phase(step / self.total)
        generator, discriminator = phase.due(step)
        due = {"generator": generator, "discriminator": discriminator}
        due |= dict.fromkeys(phase.waits, False)
        return frozenset(n for n in self.session.graph.optimizers if due.get(n, True))

    def step_of(
        self,
        drawn: Sequence[Drawn],
        streams: Streams,
        progress: float,
        learning: frozenset[str],
        shard: tuple[int, int] = (0, 1),
        elapsed: Tensor | None = None,
    ) -> TrainingStep:
        """The step of a batch, and of one of images without labels if the recipe asks for it."""
        real, labels, metadata = self.batches.gather(drawn[0])
        unlabelled = self.unlabelled.gather(drawn[1])[0] if self.unlabelled else None
        return self.session.graph.step(
            real,
            labels,
            streams,
            metadata=metadata,
            unlabelled=unlabelled,
            progress=progress,
            elapsed=elapsed,
            learning=learning,
            shard=shard,
        )

"""Computes a training step's tensors, each on first use, and keeps them.

A term that reads ``step.fake_probs`` and another that reads ``step.fake_logits`` share one pass of
the generator and one of the classifier. :class:`xraygan.parts.step.Step` has shapes and ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from xraygan.data.metadata import encode
from xraygan.distributed.ranks import DistributedContext, gather
from xraygan.errors import UserError
from xraygan.parts import contracts
from xraygan.parts.interfaces import Extractor
from xraygan.parts.part_config import PartConfig
from xraygan.parts.plugin_errors import plugin_errors
from xraygan.parts.step import Batch, Step, T
from xraygan.parts.task import Task
from xraygan.utils.tensors import as_float32

from .passes import is_compiled, keep_running_statistics, key_words
from .side_effects import ChangeDetector
from .streams import Streams


class TrainingStep(Step):
    """The step of a training graph: what :class:`Step` promises, computed by its networks.

    Args:
        real: ``(n, 1, S, S)`` real images in [-1, 1] (or the recipe's ``value_range``): this rank's
            n = N / R of the batch of N.
        labels: their labels, ``(n,)`` int64, or ``(n, K)`` float where a real image can have
            several findings.
        rng: source of this step's random numbers, on the device of ``real``; or the streams of the
            step. Each term draws from a stream of its own, and so does each tensor that is shared
            (:meth:`drawing`); their seeds are derived from this one's.
        metadata: what the dataset says of each image: ``age``, ``sex`` and ``view``, each ``(n,)``
            float as :func:`xraygan.data.metadata.metadata_columns` has them.
        progress: how much of the run is done, in [0, 1).
        elapsed: the same as a tensor, which by default is made.
        learning: the networks that are updated in this step; a generator that is not among them
            generates without keeping a graph.
        autocast: makes the context in which networks run (mixed precision).
        unlabelled: ``(N, 1, S, S)`` further real images without labels, where the recipe asks for
            them (``[data] unlabelled``).
        averages: averages of networks by their names (``average`` in a network's table).
        shard: which part of the batch ``real`` is, of how many: an index and a count. All random
            numbers are drawn for the whole batch, so they do not depend on the parts.
        ranks: the processes over which :meth:`gather` gathers.
        fake_statistics: whether the classifier's running statistics (batch norm) follow generated
            images; by default only real images move them, because it is tested on real images.
        choices: the parts by their tables, for messages to name.
        taken: the names of terms, which nothing can be recorded under.
    """

    def __init__(
        self,
        *,
        task: Task,
        networks: Mapping[str, Any],
        extractors: Mapping[str, Extractor],
        real: Tensor,
        labels: Tensor,
        rng: torch.Generator | Streams,
        metadata: Mapping[str, Tensor] | None = None,
        progress: float = 0.0,
        elapsed: Tensor | None = None,
        learning: frozenset[str] | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        unlabelled: Tensor | None = None,
        averages: Mapping[str, nn.Module] | None = None,
        shard: tuple[int, int] = (0, 1),
        ranks: DistributedContext | None = None,
        fake_statistics: bool = False,
        choices: Mapping[str, PartConfig] | None = None,
        taken: frozenset[str] = frozenset(),
    ) -> None:
        self.task = task
        self.networks = networks
        self.extractors = extractors
        self.real = real
        self._streams: Streams
        if isinstance(rng, Streams):
            self.rng, self._streams = rng.root(), rng
        else:
            self.rng, self._streams = rng, Streams(real.device, rng.initial_seed())
        self.metadata = dict(metadata or {})
        self._progress = progress
        if elapsed is None:
            elapsed = torch.full((), progress, dtype=torch.float64, device=real.device)
        self.elapsed = elapsed
        self.progress_readers: set[str] = set()
        self.unlabelled = unlabelled
        self.averages = dict(averages or {})
        self.learning = frozenset(networks) if learning is None else learning
        self.shard = shard
        self.ranks = ranks or DistributedContext()
        self.labels = self.gather(labels)
        self._autocast = autocast
        self._fake_statistics = fake_statistics
        self._choices = choices or {}
        self._taken = taken
        self.records: dict[str, Tensor] = {}
        self._part = ""
        self._kept: dict[Hashable, Any] = {}
        self.watch = ChangeDetector()

    @property
    def batch_size(self) -> int:
        return self.real.shape[0] * self.ranks.count

    @property
    def progress(self) -> float:  # type: ignore[override]  # nobody sets it
        self.progress_readers.add(self._part)
        return self._progress

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.task.classes

    def record(self, name: str, value: Tensor) -> None:
        self.records[name] = contracts.record(name, value, self._taken)

    @contextmanager
    def plugin_errors(
        self, part: str | PartConfig | None, what: str = "forward()"
    ) -> Iterator[None]:
        """A context in which the step calls a part, or the part of a table.

        Exceptions become an error of that part (:mod:`xraygan.parts.plugin_errors`), and so does
        a change of the step's tensors in place.
        """
        choice = self._choices.get(part) if isinstance(part, str) else part
        outer, self._part = self._part, choice.table if choice else self._part
        try:
            with plugin_errors(choice, what), self.watch.over(self, choice):
                yield
        finally:
            self._part = outer

    def gather(self, rows: Tensor) -> Tensor:
        return gather(rows, self.ranks)

    def share(self, rows: Tensor) -> Tensor:
        count = len(self.real)
        return rows[self.ranks.index * count :][:count]

    def draw(self, make: Callable[[int], Tensor]) -> Tensor:
        part, parts = self.shard
        count = len(self.real)
        return make(parts * count)[part * count :][:count]

    @contextmanager
    def drawing(self, *purpose: str) -> Iterator[None]:
        """Within it random numbers are those of one purpose: of a term, or of a shared tensor.

        What is drawn depends on nothing else that was drawn in this step, so that a further term
        changes no other's numbers. That holds for :attr:`rng`, and for PyTorch's own generators,
        from which dropout draws: there each part of the batch has other numbers.
        """
        outer, part = self.rng, self.shard[0]
        self.rng = self._streams.generator(*purpose)
        try:
            with self._streams.dropout(*purpose, part):
                yield
        finally:
            self.rng = outer

    # -- the generated batch -----------------------------------------------------------------------

    @cached_property
    def z(self) -> Tensor:
        size = self.networks["generator"].latent_size
        with self.drawing("latents"):
            latents = self.draw(
                lambda n: torch.randn(n, size, generator=self.rng, device=self.real.device)
            )
        return self.watch.note("z", latents)

    @cached_property
    def fake_labels(self) -> Tensor:
        # Label vectors are shuffled, not drawn: findings occur together, and a uniform vector would
        # not look like any patient's.
        if self.task.exclusive:
            classes, device = len(self.task.classes), self.real.device
            with self.drawing("labels"):
                drawn = self.draw(
                    lambda n: torch.randint(classes, (n,), generator=self.rng, device=device)
                )
            return self.gather(drawn)
        return self.labels[self._shuffled]

    @cached_property
    def _shuffled(self) -> Tensor:
        """Whose label vectors and metadata, ``(N,)``, generated images are given."""
        with self.drawing("shuffle"):
            return torch.randperm(self.batch_size, generator=self.rng, device=self.real.device)

    @cached_property
    def real_metadata(self) -> Tensor:
        return encode(self.metadata, self.task.metadata, len(self.real)).to(self.real.device)

    @cached_property
    def fake_metadata(self) -> Tensor:
        """That of the real batch, shuffled; with label vectors, that of the same image."""
        if not self.task.metadata:
            return self.real_metadata
        return self.share(self.gather(self.real_metadata)[self._shuffled])

    @cached_property
    def generated(self) -> Tensor:
        """The generator's output with its graph; terms read :attr:`fake`."""
        generator = self.networks["generator"]
        inputs = [self.z]
        if generator.conditional:
            inputs.append(self.condition_vectors("fake"))
        with (
            self._learning("generator"),
            self.drawing("generated"),
            self.plugin_errors("generator"),
        ):
            return self.run(generator, *inputs, shape=self.real.shape)

    @cached_property
    def fake(self) -> Tensor:
        """The pixels of :attr:`generated`, cut off from the generator's graph: gradients of all
        terms meet here and go through the generator once."""
        made = self.generated
        return self.watch.note("fake", made.detach().requires_grad_(made.requires_grad))

    def condition_vectors(self, batch: Batch) -> Tensor:
        real = batch == "real"
        labels = self.task.one_hot(self.share(self.labels if real else self.fake_labels))
        return torch.cat([labels, self.real_metadata if real else self.fake_metadata], dim=1)

    def _learning(self, network: str) -> AbstractContextManager:
        """Within it a graph is kept only if the network learns in this step."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and network in self.learning)

    def run(
        self, network: nn.Module, *inputs: Tensor, shape: Sequence[int] | None = None
    ) -> Tensor:
        with self._autocast():
            return contracts.floating(network(*inputs), shape)

    @cached_property
    def real_scores(self) -> Tensor:
        """From :meth:`discriminator_pass`, gathered.

        The augmenter watches them where the discriminator learns.
        """
        scores = self.gather(self._judged("real")[1])
        if "augmenter" in self.networks and "discriminator" in self.learning:
            with self.plugin_errors("augmenter", "watch()"):
                self.networks["augmenter"].watch(scores.detach())
        return scores

    @cached_property
    def fake_scores(self) -> Tensor:
        return self.gather(self._judged("fake")[1])

    def discriminator_pass(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The pass of :attr:`real_scores` or :attr:`fake_scores`, before logits are gathered.

        Batch norms that see several ranks are differentiated over all of them.
        """
        if is_compiled(self.networks["discriminator"]):
            raise UserError(
                "a penalty on the discriminator's gradient differentiates it twice, which a "
                'compiled network cannot be; set [run] compile = "off"'
            )
        return self._judged(batch)

    def _judged(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.cached(("judged", batch), lambda: self._judge(batch))

    def _judge(self, batch: Batch) -> tuple[Tensor, Tensor]:
        discriminator = self.networks["discriminator"]
        images = getattr(self, batch)
        if not (images.requires_grad or is_compiled(discriminator)):
            # Nothing is computed for a gradient that nobody asks for; a compiled network would.
            images = images.detach().requires_grad_()
        labels = self.condition_vectors(batch) if discriminator.conditional else None
        with self._learning("discriminator") if batch == "real" else nullcontext():
            return images, self.discriminate(images, labels)

    def discriminate(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        if "augmenter" in self.networks:
            with self.plugin_errors("augmenter"):
                images = contracts.floating(self.networks["augmenter"](images, self), images.shape)
        given = [] if labels is None else [labels]
        with self.plugin_errors("discriminator"):
            shape = (len(images),)
            return self.run(self.networks["discriminator"], images, *given, shape=shape)

    @cached_property
    def real_activations(self) -> dict[str, Tensor]:
        classifier = self.networks["classifier"]
        given = [self.real_metadata] if classifier.metadata else []
        with self._learning("classifier"), self.drawing("classified", "real"):
            return self._classified(classifier, self.real, *given)

    @cached_property
    def fake_activations(self) -> dict[str, Tensor]:
        with self.drawing("classified", "fake"):
            return self.classify(self.fake, lambda: self.fake_metadata)

    def classify(
        self,
        images: Tensor,
        metadata: Callable[[], Tensor] | None = None,
        *,
        averaged: bool = False,
    ) -> dict[str, Tensor]:
        """Without moving the running statistics (batch norm), unless generated images are to."""
        classifier = (self.averages if averaged else self.networks)["classifier"]
        keep = nullcontext() if self._fake_statistics else keep_running_statistics(classifier)
        given = [metadata()] if classifier.metadata and metadata else []
        with keep:
            return self._classified(classifier, images, *given)

    def _classified(self, classifier: nn.Module, images: Tensor, *given: Tensor) -> Any:
        with self.plugin_errors("classifier"), self._autocast():
            return contracts.activations(classifier(images, *given), len(images), self.task)

    @cached_property
    def real_logits(self) -> Tensor:
        return self.gather(as_float32(self.real_activations["logits"]))

    @cached_property
    def fake_logits(self) -> Tensor:
        return self.gather(as_float32(self.fake_activations["logits"]))

    @cached_property
    def real_probs(self) -> Tensor:
        return self.task.probabilities(self.real_logits)

    @cached_property
    def fake_probs(self) -> Tensor:
        return self.task.probabilities(self.fake_logits)

    def features(self, extractor: str, images: str | Tensor) -> dict[str, Tensor]:
        def extract() -> dict[str, Tensor]:
            of = getattr(self, images) if isinstance(images, str) else images
            with self.plugin_errors(f"extractors.{extractor}"), self._autocast():
                maps = self.extractors[extractor].extract(self, images)
                return contracts.named_tensors(maps, len(of))

        # A tensor is known by what it is, not by its values; as a key it is kept with its maps.
        return self.cached(("features", extractor, images), extract)

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._kept:
            # Seeds are derived from these words: another word would change every run's numbers.
            with self.drawing("once", *key_words(key)):
                self._kept[key] = make()
        return self._kept[key]

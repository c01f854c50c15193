"""What a step computes of its batch, with networks that note what they are given."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xraygan import Task, UserError
from xraygan.data.metadata import encode
from xraygan.distributed.ranks import DistributedContext
from xraygan.graph.step import TrainingStep
from xraygan.parts.part_config import PartConfig
from xraygan.parts.plugin_errors import BadAnswer, PluginFault
from xraygan.parts.registry import Part
from xraygan.utils.seeding import derive_seed, rng

TOLD = ("age", "sex")
N, S = 4, 16


@dataclass
class Call:
    given: tuple[Tensor, ...]
    training_graph: bool
    drawn: float
    autocast: bool
    momentum: Any


class Noting(nn.Module):
    """A network with a weight and a batch norm that notes its calls."""

    def __init__(self, conditional: bool = False, metadata: bool = False) -> None:
        super().__init__()
        self.conditional, self.metadata = conditional, metadata
        self.latent_size = 3
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.norm = nn.BatchNorm2d(1)
        self.calls: list[Call] = []

    def note(self, *given: Tensor) -> None:
        drawn = torch.rand(()).item()
        self.calls.append(
            Call(given, torch.is_grad_enabled(), drawn, IN_AUTOCAST[-1], self.norm.momentum)
        )


class Generates(Noting):
    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.note(z, *([] if labels is None else [labels]))
        return (self.weight * z.mean(dim=1)).tanh()[:, None, None, None].expand(-1, 1, S, S)


class Judges(Noting):
    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        self.note(images, *([] if labels is None else [labels]))
        return self.weight * images.mean(dim=(1, 2, 3))


class Classifies(Noting):
    def forward(self, images: Tensor, told: Tensor | None = None) -> dict[str, Tensor]:
        self.note(images, *([] if told is None else [told]))
        means = self.norm(images).mean(dim=(2, 3))
        return {"features": means.expand(-1, 5), "logits": self.weight * means * torch.arange(3.0)}


class Augments(Noting):
    def __init__(self) -> None:
        super().__init__()
        self.watched: list[Tensor] = []

    def forward(self, images: Tensor, step: TrainingStep) -> Tensor:
        self.note(images)
        assert isinstance(step, TrainingStep)
        return images + 0.5

    def watch(self, scores: Tensor) -> None:
        assert not scores.requires_grad
        self.watched.append(scores)


@dataclass
class Extracts:
    calls: list[tuple[TrainingStep, Any]] = field(default_factory=list)

    def extract(self, step: TrainingStep, images: Any) -> dict[str, Tensor]:
        assert IN_AUTOCAST[-1]
        self.calls.append((step, images))
        of = getattr(step, images) if isinstance(images, str) else images
        return {"map": of.mean(dim=(2, 3)) + torch.rand(())}


IN_AUTOCAST = [False]


@contextmanager
def autocast() -> Any:
    IN_AUTOCAST.append(True)
    yield
    IN_AUTOCAST.pop()


def networks(conditional: bool = True, metadata: bool = True) -> dict[str, Any]:
    return {
        "generator": Generates(conditional),
        "discriminator": Judges(conditional),
        "classifier": Classifies(metadata=metadata),
    }


def step_of(nets: dict[str, Any] | None = None, **changes: Any) -> TrainingStep:
    source = rng("cpu", 0, "real")
    real = torch.rand(N, 1, S, S, generator=source) * 2 - 1
    given: dict[str, Any] = {
        "task": Task(S, ("A", "B", "C"), exclusive=True, metadata=TOLD),
        "networks": networks() if nets is None else nets,
        "extractors": {"any": Extracts()},
        "real": real,
        "labels": torch.arange(N) % 3,
        "rng": rng("cpu", 7, "latent"),
        "metadata": {"age": torch.linspace(20, 80, N), "sex": torch.arange(N) % 2.0},
        "autocast": autocast,
    }
    return TrainingStep(**{**given, **changes})


def of_purpose(*purpose: str, shape: tuple[int, ...] = (), seed: int | None = None) -> Tensor:
    base = rng("cpu", 7, "latent").initial_seed() if seed is None else seed
    return torch.randn(shape, generator=rng("cpu", base, *purpose))


# -- what it is given ------------------------------------------------------------------------------


def test_a_step_has_what_it_is_given() -> None:
    nets, unlabelled, averages = networks(), torch.zeros(2), {"classifier": nn.Linear(1, 1)}
    step = step_of(nets, unlabelled=unlabelled, averages=averages, progress=0.25)
    assert step.networks is nets and step.unlabelled is unlabelled and step.progress == 0.25
    assert step.averages == averages and step.shard == (0, 1) and step.ranks == DistributedContext()
    assert step.learning == {"generator", "discriminator", "classifier"}
    assert step_of(learning=frozenset()).learning == frozenset()
    assert (step.batch_size, step.class_names) == (N, ("A", "B", "C"))
    plain = step_of(metadata=None)
    assert (plain.metadata, plain.averages, plain.records, plain.unlabelled) == ({}, {}, {}, None)
    assert plain.progress == 0.0
    assert torch.equal(step.labels, torch.arange(N) % 3)


def test_a_record_has_a_name_of_its_own() -> None:
    step = step_of(taken=frozenset({"mmd"}))
    step.record("kept", torch.ones(1, requires_grad=True))
    assert step.records["kept"].shape == () and not step.records["kept"].requires_grad
    with pytest.raises(BadAnswer, match="'mmd', which is a term's name"):
        step.record("mmd", torch.ones(()))
    step_of().record("mmd", torch.ones(()))


# -- random numbers --------------------------------------------------------------------------------


def test_a_shard_has_its_rows_of_what_is_drawn_for_the_whole_batch() -> None:
    whole = step_of(real=torch.zeros(3 * N, 1, S, S), labels=torch.zeros(3 * N, dtype=torch.int64))
    parts = [step_of(shard=(i, 3)) for i in range(3)]
    assert torch.equal(torch.cat([part.z for part in parts]), whole.z)
    assert torch.equal(torch.cat([part.fake_labels for part in parts]), whole.fake_labels)
    assert torch.equal(whole.z, of_purpose("latents", shape=(3 * N, 3)))
    assert whole.z.shape == (12, 3) and {*whole.fake_labels.tolist()} == {0, 1, 2}
    asked: list[int] = []
    parts[1].draw(lambda n: (asked.append(n), torch.arange(n))[1])
    assert asked == [12]
    assert parts[1].draw(torch.arange).tolist() == [4, 5, 6, 7]


def test_each_purpose_draws_from_a_stream_of_its_own() -> None:
    step = step_of(shard=(2, 3))
    outer, before = step.rng, torch.get_rng_state()
    base = outer.initial_seed()
    with step.drawing("term", "mmd"):
        assert step.rng.initial_seed() == derive_seed(base, "term", "mmd")
        assert step.rng.device == outer.device
        assert torch.initial_seed() == derive_seed(base, "dropout", "term", "mmd", 2)
        with pytest.raises(KeyError), step.drawing("other"):
            assert step.rng.initial_seed() == derive_seed(base, "other")
            raise KeyError
        assert step.rng.initial_seed() == derive_seed(base, "term", "mmd")
    assert step.rng is outer and torch.equal(torch.get_rng_state(), before)


def test_what_is_computed_once_draws_from_a_stream_of_its_own_and_is_kept() -> None:
    step, made = step_of(), []

    def make() -> float:
        made.append(step.rng.initial_seed())
        return torch.rand(()).item()

    first = step.cached(("a", 1, ("b",), object), make)
    assert step.cached(("a", 1, ("b",), object), make) == first and len(made) == 1
    assert made == [derive_seed(rng("cpu", 7, "latent").initial_seed(), "once", "a", "1", "b")]
    assert step.cached("c", make) != first and len(made) == 2
    step.cached("none", lambda: None)
    assert step.cached("none", make) is None


# -- generated images ------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("learning", [True, False])
def test_generated_images_are_cut_off_from_the_generators_graph(
    conditional: bool, learning: bool
) -> None:
    nets = networks(conditional)
    which = frozenset({"generator"} if learning else {"classifier"})
    step = step_of(nets, learning=which)
    assert step.fake is step.fake
    (call,) = nets["generator"].calls
    assert torch.equal(call.given[0], step.z) and len(call.given) == 1 + conditional
    if conditional:
        assert torch.equal(call.given[1], step.condition_vectors("fake"))
    assert call.training_graph is learning and call.autocast
    seed = derive_seed(rng("cpu", 7, "latent").initial_seed(), "dropout", "generated", 0)
    assert call.drawn == torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    assert step.generated.requires_grad is learning and step.fake.requires_grad is learning
    assert step.fake.is_leaf and torch.equal(step.fake, step.generated)
    assert step.fake.shape == (N, 1, S, S)
    assert step.watch._seen["fake"][0] is step.fake and step.watch._seen["z"][0] is step.z
    with torch.no_grad():
        assert not step_of(networks()).generated.requires_grad


def test_a_generator_of_another_shape_is_named() -> None:
    nets = networks()
    nets["generator"].forward = lambda *_: torch.zeros(N, 1, S, S + 1)
    choice = PartConfig("generator", Part("generator", "gan", "their 1.0", ""), None, {})
    with pytest.raises(PluginFault, match=r"^\[generator\]"):
        _ = step_of(nets, choices={"generator": choice}).fake


@pytest.mark.parametrize("exclusive", [True, False])
def test_label_vectors_and_metadata_of_both_batches(exclusive: bool) -> None:
    vectors = torch.eye(4)[:, :3]
    step = step_of(
        task=Task(S, ("A", "B", "C"), exclusive=exclusive, metadata=TOLD),
        labels=torch.arange(N) % 3 if exclusive else vectors,
    )
    told = encode(step.metadata, TOLD, N)
    base = rng("cpu", 7, "latent").initial_seed()
    shuffled = torch.randperm(N, generator=rng("cpu", base, "shuffle"))
    assert shuffled.tolist() != [0, 1, 2, 3]
    assert torch.equal(step.real_metadata, told)
    assert torch.equal(step.fake_metadata, told[shuffled])
    real, fake = step.condition_vectors("real"), step.condition_vectors("fake")
    labels = torch.eye(3)[torch.arange(N) % 3] if exclusive else vectors
    assert torch.equal(real, torch.cat([labels, told], 1))
    if exclusive:
        drawn = torch.randint(3, (N,), generator=rng("cpu", base, "labels"))
        assert torch.equal(step.fake_labels, drawn)
        expected = torch.eye(3)[drawn]
    else:
        assert torch.equal(step.fake_labels, vectors[shuffled])
        expected = vectors[shuffled]
    assert torch.equal(fake, torch.cat([expected, told[shuffled]], 1))
    untold = step_of(task=Task(S, ("A", "B", "C"), exclusive=True))
    assert untold.fake_metadata is untold.real_metadata and untold.real_metadata.shape == (N, 0)


# -- the discriminator -----------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [True, False])
def test_the_discriminator_sees_each_batch_once(conditional: bool) -> None:
    nets = networks(conditional)
    step = step_of(nets)
    scores = step.real_scores, step.fake_scores
    assert torch.equal(scores[0], 2 * step.real.mean(dim=(1, 2, 3)))
    assert torch.equal(scores[1], 2 * step.fake.mean(dim=(1, 2, 3)))
    assert (
        step.discriminator_pass("real")[1] is scores[0]
        and step.discriminator_pass("fake")[0] is step.fake
    )
    real, fake = nets["discriminator"].calls
    assert len(real.given) == len(fake.given) == 1 + conditional
    if conditional:
        assert torch.equal(real.given[1], step.condition_vectors("real"))
        assert torch.equal(fake.given[1], step.condition_vectors("fake"))
    assert real.autocast and fake.autocast
    base = rng("cpu", 7, "latent").initial_seed()
    for call, which in ((real, "real"), (fake, "fake")):
        seed = derive_seed(base, "dropout", "once", "judged", which, 0)
        assert call.drawn == torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    images, logits = step.discriminator_pass("real")
    assert images.requires_grad and images is not step.real and not step.real.requires_grad
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    assert gradient.unique().tolist() == pytest.approx([2 / S**2])


def test_a_discriminator_that_waits_judges_real_images_without_a_graph() -> None:
    nets = networks(False)
    step = step_of(nets, learning=frozenset({"generator"}))
    assert not step.real_scores.requires_grad and step.fake_scores.requires_grad
    real, fake = nets["discriminator"].calls
    assert (real.training_graph, fake.training_graph) == (False, True)
    waits = step_of(networks(False), learning=frozenset({"discriminator"}))
    images = waits.discriminator_pass("fake")[0]
    assert images.requires_grad and not waits.fake.requires_grad


def test_a_compiled_discriminator_is_not_differentiated_twice() -> None:
    nets = networks(False)
    nets["discriminator"]._compiled_call_impl = nets["discriminator"].forward
    step = step_of(nets)
    with pytest.raises(UserError, match=r'^a penalty on the disc.*set \[run\] compile = "off"$'):
        step.discriminator_pass("real")
    assert not step._judged("real")[0].requires_grad
    assert step._judged("fake")[0] is step.fake


def test_the_augmenter_changes_what_the_discriminator_sees() -> None:
    nets = {**networks(False), "augmenter": Augments()}
    step = step_of(nets)
    assert torch.equal(step.real_scores, 2 * (step.real + 0.5).mean(dim=(1, 2, 3)))
    assert torch.equal(nets["augmenter"].watched[0], step.real_scores)
    _ = step.fake_scores
    assert len(nets["augmenter"].watched) == 1 and len(nets["augmenter"].calls) == 2
    assert not step.discriminator_pass("real")[0].eq(step.real + 0.5).any()  # before the augmenter
    waits = step_of(nets, learning=frozenset({"generator"}))
    _ = waits.real_scores
    assert len(nets["augmenter"].watched) == 1
    given = nets["discriminator"].calls[0].given
    assert torch.equal(given[0], step.real + 0.5)
    nets["augmenter"].forward = lambda images, step: images[:, :, 1:]
    with pytest.raises(BadAnswer, match="expected"):
        waits.discriminate(waits.real)
    nets["augmenter"].forward = lambda images, step: images
    nets["discriminator"].forward = lambda images: images.mean(dim=(2, 3))
    with pytest.raises(BadAnswer, match="expected"):
        waits.discriminate(waits.real)


# -- the classifier --------------------------------------------------------------------------------


def test_the_classifier_sees_each_batch_once() -> None:
    nets = networks()
    step = step_of(nets)
    logits = step.real_logits, step.fake_logits
    assert torch.equal(step.real_probs, logits[0].softmax(1))
    assert torch.equal(step.fake_probs, logits[1].softmax(1))
    assert step.real_activations["logits"] is not None and len(nets["classifier"].calls) == 2
    real, fake = nets["classifier"].calls
    assert torch.equal(real.given[0], step.real) and real.given[1] is step.real_metadata
    assert fake.given[0] is step.fake and fake.given[1] is step.fake_metadata
    assert (real.momentum, fake.momentum) == (0.1, 0.0)
    assert real.autocast and fake.autocast
    base = rng("cpu", 7, "latent").initial_seed()
    for call, which in ((real, "real"), (fake, "fake")):
        seed = derive_seed(base, "dropout", "classified", which, 0)
        assert call.drawn == torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    assert logits[0].requires_grad
    waits = step_of(networks(), learning=frozenset({"generator"}))
    assert not waits.real_logits.requires_grad and waits.fake_logits.requires_grad


def test_a_classifier_that_reads_no_metadata_is_given_none() -> None:
    nets = networks(metadata=False)
    step = step_of(nets)
    _ = step.real_logits, step.fake_logits
    assert [len(call.given) for call in nets["classifier"].calls] == [1, 1]


def test_statistics_follow_generated_images_where_no_real_ones_are_seen() -> None:
    nets = networks()
    _ = step_of(nets, fake_statistics=True).fake_logits
    assert nets["classifier"].calls[0].momentum == 0.1


def test_other_images_are_classified_by_the_network_or_its_average() -> None:
    nets, average = networks(), Classifies(metadata=True)
    step = step_of(nets, averages={"classifier": average})
    images = step.real + 1
    step.classify(images)
    step.classify(images, lambda: step.real_metadata, averaged=True)
    (ours,), (theirs,) = nets["classifier"].calls, average.calls
    assert len(ours.given) == 1 and torch.equal(ours.given[0], images)
    assert theirs.given[1] is step.real_metadata
    assert (ours.momentum, theirs.momentum) == (0.0, 0.0)
    assert average.norm.momentum == 0.1
    with pytest.raises(BadAnswer, match="logits"):
        nets["classifier"].forward = lambda images: {"features": torch.zeros(N, 2)}
        step.classify(images)


# -- extractors ------------------------------------------------------------------------------------


def test_features_are_extracted_once_for_each_batch() -> None:
    extractor = Extracts()
    step = step_of(extractors={"any": extractor})
    found = step.features("any", "real")
    assert step.features("any", "real") is found
    other = step.real + 1
    assert step.features("any", other) is step.features("any", other)
    assert extractor.calls == [(step, "real"), (step, other)]
    seed = derive_seed(step._streams.seed, "dropout", "once", "features", "any", "real", 0)
    drawn = torch.rand((), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(found["map"], step.real.mean(dim=(2, 3)) + drawn)
    three = step_of(real=step.real[:3], labels=step.labels[:3], extractors={"any": Extracts()})
    assert three.features("any", "real")["map"].shape == (3, 1)
    extractor.extract = lambda step, images: {"map": torch.zeros(N + 1, 2)}  # type: ignore
    with pytest.raises(BadAnswer, match=f"expected {N} rows"):
        step.features("any", "fake")


def test_a_part_at_fault_is_named_by_its_table() -> None:
    def choice(table: str) -> PartConfig:
        kind = table.split(".")[0].removesuffix("s")
        return PartConfig(table, Part(kind, "bad", "their 1.0", ""), None, {})

    tables = ("generator", "discriminator", "classifier", "augmenter", "extractors.any")
    choices = {table: choice(table) for table in tables}

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("it broke")

    def asked(table: str, ask: Any, method: str = "forward") -> str:
        nets = {**networks(), "augmenter": Augments()}
        extractor = Extracts()
        step = step_of(nets, choices=choices, extractors={"any": extractor})
        if table == "extractors.any":
            extractor.extract = broken  # type: ignore[method-assign]
        else:
            setattr(nets[table], method, broken)
        with pytest.raises(PluginFault) as caught:
            ask(step)
        return str(caught.value)

    for table, ask in (
        ("generator", lambda step: step.fake),
        ("discriminator", lambda step: step.real_scores),
        ("classifier", lambda step: step.real_logits),
        ("classifier", lambda step: step.fake_logits),
        ("augmenter", lambda step: step.fake_scores),
        ("extractors.any", lambda step: step.features("any", "real")),
    ):
        said = asked(table, ask)
        assert said.startswith(f"[{table}]") and "forward()" in said and "it broke" in said
    assert "watch()" in asked("augmenter", lambda step: step.real_scores, "watch")


# -- several ranks ---------------------------------------------------------------------------------


def test_a_rank_has_its_rows_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(rows: Tensor, ranks: DistributedContext) -> Tensor:
        assert ranks == DistributedContext(1, 2)
        return torch.cat([rows + 100, rows]) if rows.dtype == torch.int64 else torch.cat([rows] * 2)

    monkeypatch.setattr("xraygan.graph.step.gather", twice)
    nets = networks()
    step = step_of(nets, ranks=DistributedContext(1, 2), shard=(1, 2))
    assert step.batch_size == 2 * N
    assert step.labels.tolist() == [100, 101, 102, 100, 0, 1, 2, 0]
    assert torch.equal(step.share(step.labels), torch.arange(N) % 3)
    assert len(step.fake_labels) == 2 * N and len(step.fake_metadata) == N
    assert step.condition_vectors("real").shape == (N, 7)
    assert len(step.real_scores) == len(step.fake_scores) == 2 * N
    assert len(step.real_logits) == len(step.fake_probs) == 2 * N
    assert len(step.discriminator_pass("real")[1]) == N
    assert len(step._shuffled) == 2 * N


def test_outputs_are_float32_at_least() -> None:
    step = step_of()
    found = step.run(nn.Identity(), torch.ones(2, 3, dtype=torch.bfloat16), shape=(2, -1))
    assert found.dtype == torch.float32
    with pytest.raises(BadAnswer, match="expected"):
        step.run(nn.Identity(), torch.ones(2, 3), shape=(3, 3))

"""Who learns from what: audiences, shared passes, schedules."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import SMALL
from safetensors.torch import save_file
from torch import Tensor

from xraygan import Task
from xraygan.graph.build import assemble, dry_build
from xraygan.graph.graph import TrainingGraph
from xraygan.graph.step import TrainingStep
from xraygan.graph.terms import Term
from xraygan.parts.registry import installed
from xraygan.recipe.loading import load
from xraygan.recipe.optimization import Phase
from xraygan.utils.seeding import rng

VGG = (
    "scores.gram.extractor=vgg19",
    "scores.style_transfer.extractor=vgg19",
    "extractors.vgg19.weights=random",
)


def graph_of(name: str, *overrides: str) -> TrainingGraph:
    recipe = load(name, [*SMALL, *VGG, *overrides])
    return assemble(recipe, Task(32, ("Pneumonia", "Edema", "Hernia"), exclusive=True))


def step_of(graph: TrainingGraph, n: int = 6, **context: object) -> TrainingStep:
    source = rng("cpu", 0, "test")
    real = torch.rand(n, 1, 32, 32, generator=source) * 2 - 1
    labels = torch.arange(n) % 3
    return graph.step(real, labels, rng("cpu", 0, "latent"), **context)


def reached(graph: TrainingGraph, name: str) -> set[str]:
    """The networks whose parameters receive a non-zero gradient from one term alone."""
    graph.terms = [term for term in graph.terms if term.name == name]
    assert graph.terms, f"there is no term {name!r}"
    _, gradients = graph.gradients(step_of(graph))
    return {
        network
        for network, found in gradients.items()
        if any(g is not None and bool(g.abs().max() > 0) for g in found)
    }


AS_SAID = {
    "generator": {"generator"},
    "discriminator": {"discriminator"},
    "classification": {"classifier"},
    "pseudo_label": {"classifier"},
    "inception": {"generator", "classifier"},
    "mmd": {"generator", "classifier"},
    "style_transfer": {"generator", "style_transfer"},
    "gram": {"generator"},
}
AS_RELEASED = {
    **AS_SAID,
    "inception": {"classifier"},
    "mmd": {"classifier"},
    "style_transfer": set(),
    "gram": set(),
}


@pytest.mark.parametrize(
    ("recipe", "term", "audience"),
    [("ucgan_full", *item) for item in AS_SAID.items()]
    + [("ucgan_as_released", *item) for item in AS_RELEASED.items()],
)
def test_exactly_a_terms_audience_learns_from_it(
    recipe: str, term: str, audience: set[str]
) -> None:
    # A threshold of 0 keeps every pseudo-label of the untrained classifier. The released MMD is
    # skipped below 1e-6, which random weights do not reach.
    graph = graph_of(recipe, "labeler.threshold=0.0")
    assert {t.name for t in graph.terms} == set(AS_SAID)
    assert next(t for t in graph.terms if t.name == term).trains == audience
    assert reached(graph, term) == audience


@pytest.mark.parametrize("term", ["inception", "mmd", "gram", "style_transfer"])
@pytest.mark.parametrize("audience", [("generator",), ("classifier",), ("generator", "classifier")])
def test_changing_trains_changes_only_that(term: str, audience: tuple[str, ...]) -> None:
    extractor = ["scores.gram.extractor=classifier", "scores.style_transfer.extractor=classifier"]
    names = ", ".join(f'"{name}"' for name in audience)
    graph = graph_of("ucgan_full", *extractor, f"scores.{term}.trains=[{names}]")
    before = graph_of("ucgan_full", *extractor)
    assert {t.name: t.weight for t in graph.terms} == {t.name: t.weight for t in before.terms}
    trains, former = ({t.name: t.trains for t in g.terms} for g in (graph, before))
    assert trains[term] == frozenset(audience)
    assert {**trains, term: None} == {**former, term: None}
    assert reached(graph, term) == set(audience)


def test_the_released_colour_network_can_be_judged_by_the_classifier() -> None:
    graph = graph_of(
        "ucgan_as_released",
        "scores.gram.extractor=classifier",
        "scores.style_transfer.extractor=classifier",
    )
    _, gradients = graph.gradients(step_of(graph))
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients["classifier"])


def test_gradients_are_those_of_the_weighted_sum() -> None:
    """Cutting at the generated images and grouping by audience change nothing."""
    graph = graph_of("ucgan_full", "labeler.threshold=0.0")
    values, gradients = graph.gradients(step_of(graph))
    assert set(values) == {term.name for term in graph.terms}

    for name, network in graph.networks.items():
        step = step_of(graph)
        step.fake = step.generated  # the whole graph, uncut
        total: Tensor = sum(  # type: ignore[assignment]
            t.weight * t.compute(step) for t in graph.terms if name in t.trains
        )
        parameters = [p for p in network.parameters() if p.requires_grad]
        plain = torch.autograd.grad(total, parameters, allow_unused=True)
        for ours, expected in zip(gradients[name], plain, strict=True):
            assert (ours is None) == (expected is None)
            if ours is not None and expected is not None:
                assert (ours - expected).norm() <= 1e-3 * expected.norm() + 1e-6


def count_passes(modules: Iterable[tuple[str, torch.nn.Module]]) -> Counter[str]:
    passes: Counter[str] = Counter()
    for name, module in modules:
        module.register_forward_hook(lambda *_, name=name: passes.update([name]))
    return passes


def test_each_network_sees_each_batch_once() -> None:
    graph = graph_of("ucgan_full")
    passes = count_passes([*graph.networks.items(), *graph.extractors.items()])
    graph.gradients(step_of(graph))
    assert passes == {
        "generator": 1,
        "discriminator": 2,  # real and generated
        "classifier": 2,
        "style_transfer": 1,
        "vgg19": 3,  # real, generated and stylized
    }


def count_backward_passes(modules: Iterable[tuple[str, torch.nn.Module]]) -> Counter[str]:
    """How often a gradient arrives at what each module returned last."""
    passes: Counter[str] = Counter()

    def watch(name: str, output: Any) -> None:
        last = list(output.values())[-1] if isinstance(output, dict) else output
        if last.requires_grad:
            last.register_hook(lambda _: passes.update([name]))

    for name, module in modules:
        module.register_forward_hook(lambda _, __, output, name=name: watch(name, output))
    return passes


def test_convolutions_find_maps_and_weights_in_the_order_that_their_networks_read_fastest() -> None:
    graph = graph_of("ucgan_full")
    found: dict[str, set[str]] = {}
    for name, network in {**graph.networks, **graph.extractors}.items():

        def note(layer: torch.nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            for maps in (inputs[0], layer.weight):
                if maps.shape[1] > 1 and maps.shape[2] > 1:  # else both orders are one
                    last = maps.is_contiguous(memory_format=torch.channels_last)
                    order = "planes" if maps.is_contiguous() else "channels_last" if last else "?"
                    found.setdefault(name, set()).add(order)

        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                layer.register_forward_pre_hook(note)
    graph.gradients(step_of(graph))
    assert {*found} == {*graph.networks, *graph.extractors}
    assert found.pop("style_transfer") == {"planes"}
    assert all(orders == {"channels_last"} for orders in found.values()), found


def test_no_network_is_differentiated_more_often_than_its_audiences_ask() -> None:
    graph = graph_of("ucgan_full", "labeler.threshold=0.0")
    passes = count_backward_passes([*graph.networks.items(), *graph.extractors.items()])
    graph.gradients(step_of(graph))
    assert passes == {
        "generator": 1,
        "discriminator": 3,  # its own loss: both batches; the generator's: the generated one
        "classifier": 3,  # its own terms: both batches; the generator's: the generated one
        "style_transfer": 1,
        "vgg19": 2,  # generated and stylized
    }


def test_a_score_that_reads_anothers_network_does_not_train_it() -> None:
    graph = graph_of("ucgan_full")
    _, before = graph.gradients(step_of(graph))

    def intruder(step: TrainingStep) -> Tensor:
        pair = torch.cat([step.real, step.fake], dim=1)
        return graph.networks["style_transfer"].transfer(pair).square().mean()

    graph.terms.append(Term("intruder", intruder, 10.0, frozenset({"generator"})))
    _, after = graph.gradients(step_of(graph))
    assert all(map(torch.equal, before["style_transfer"], after["style_transfer"]))
    assert not all(map(torch.equal, before["generator"], after["generator"]))


def test_a_waiting_network_costs_nothing() -> None:
    graph = graph_of("ucgan_full")
    passes = count_passes(graph.networks.items())
    learning = frozenset({"generator", "classifier", "style_transfer"})
    values, gradients = graph.gradients(step_of(graph, learning=learning))
    assert "discriminator" not in gradients
    assert "discriminator" not in values
    assert passes["discriminator"] == 1  # the generated batch alone


@pytest.mark.parametrize(
    ("ratio", "generator", "discriminator"),
    [("3:1", 12, 4), ("1:3", 4, 12), ("1:1", 12, 12), ("2:3", 8, 12)],
)
def test_phases_update_in_their_ratio(ratio: str, generator: int, discriminator: int) -> None:
    due = [Phase(ratio=ratio).due(step) for step in range(12)]
    assert sum(g for g, _ in due) == generator
    assert sum(d for _, d in due) == discriminator


def test_the_rarer_update_ends_its_round() -> None:
    """One step early, and a run's first discriminator update would see an untrained generator."""
    assert [Phase(ratio="3:1").due(step) for step in range(6)] == [
        (True, False), (True, False), (True, True),
    ] * 2  # fmt: skip
    assert [Phase(ratio="2:3").due(step) for step in range(6)] == [
        (False, True), (True, True), (True, True),
    ] * 2  # fmt: skip


def test_generated_images_leave_the_classifiers_statistics_to_real_ones() -> None:
    graph = graph_of("ucgan_full")
    norm = graph.networks["classifier"].network.bn1
    step = step_of(graph)
    before = norm.running_mean.clone()
    _ = step.fake_probs
    assert torch.equal(norm.running_mean, before)
    _ = step.real_probs
    assert not torch.equal(norm.running_mean, before)


def test_adding_a_score_leaves_the_other_networks_initial_weights() -> None:
    with_score, without = (
        graph_of("ucgan_full"),
        graph_of("ucgan_full", "scores.style_transfer.weight=0"),
    )
    assert "style_transfer" not in without.networks
    for name, network in without.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, with_score.networks[name].state_dict()[key]), (name, key)


def test_an_average_follows_its_network_and_stands_for_it() -> None:
    graph = graph_of("ucgan_full", "generator.average=0.8", "classifier.average=0.5")
    assert {*graph.ema} == {"generator", "classifier"}
    networks = graph.networks["generator"], graph.ema["generator"]
    expected = [p.detach().double().clone() for p in networks[1].parameters()]
    for done in range(4):
        step = step_of(graph)
        _, gradients = graph.gradients(step)
        assert {*gradients} <= {*graph.networks}
        graph.update(gradients, done)
        decay = min(0.8, 1 - 1 / (done + 1))
        for mean, now in zip(expected, networks[0].parameters(), strict=True):
            mean.copy_(decay * mean + (1 - decay) * now.detach().double())
    for mean, found in zip(expected, networks[1].parameters(), strict=True):
        torch.testing.assert_close(found.double(), mean, rtol=1e-5, atol=1e-7)
    for theirs, found in zip(networks[0].buffers(), networks[1].buffers(), strict=True):
        assert torch.equal(theirs, found)
    assert graph.trained("generator") is networks[1]
    assert graph.trained("discriminator") is graph.networks["discriminator"]


def test_generated_images_count_from_their_start_on() -> None:
    recipe = load(
        "ucgan_full",
        [
            *(setting for setting in SMALL if ".width=" not in setting),  # the cgan has none
            *VGG,
            "generator.plugin=cgan",
            "discriminator.plugin=cgan",
            "labeler.plugin=condition",
            "labeler.start=0.5",
        ],
    )
    graph = assemble(recipe, Task(32, ("Pneumonia", "Edema", "Hernia"), exclusive=True))
    term = next(term for term in graph.terms if term.name == "pseudo_label")
    with torch.no_grad():
        losses = [
            float(term.compute(step_of(graph, progress=progress)))
            for progress in (0, 0.499, 0.5, 0.9)
        ]
    assert losses[:2] == [0, 0]
    assert losses[2] == losses[3] > 0


def test_a_rehearsal_is_silent_about_weights(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    save_file(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.safetensors")
    local = f"classifier.weights={tmp_path / 'resnet18.safetensors'}"
    sets = ["classifier.plugin=resnet18", local]
    dry_build(load("quickstart", sets), Task(64, ("A", "B", "C", "D"), True))
    assert not [str(warning.message) for warning in recwarn]


# -- terms do not change each other's numbers ------------------------------------------------------

DRAWING = (
    "discriminator.plugin=cgan",
    "objective.plugin=wgan_gp",
    "augmenter={plugin='ada', start=0.5}",
    "classifier.average=0.9",
    "scores.style_transfer.width=4",
    "scores.mean_teacher.weight=2.0",
    "scores.unlabelled_pseudo_label={threshold=0.3, noise=0.1}",
    *(f"scores.{n}.weight=1.0" for n in ("energy_distance", "mixture_mmd", "polynomial_mmd")),
    *(f"scores.{n}.weight=1.0" for n in ("sinkhorn", "sliced_wasserstein")),
)


@pytest.fixture(scope="module")
def drawing() -> TrainingGraph:
    """Every built-in score, and an objective, an augmenter and a dropout that draw numbers."""
    recipe = load("cucgan", [*(s for s in SMALL if ".width" not in s), *DRAWING])
    told = tuple(recipe.tables.data.metadata)
    graph = assemble(recipe, Task(32, ("Pneumonia", "Edema"), exclusive=True, metadata=told))
    assert {term.name for term in graph.terms} > set(installed().names("score"))
    assert any(isinstance(m, torch.nn.Dropout) for m in graph.networks["discriminator"].modules())
    return graph


def drawn_step(graph: TrainingGraph, **context: object) -> TrainingStep:
    unlabelled = torch.rand(4, 1, 32, 32, generator=rng("cpu", 0, "unlabelled"))
    real = torch.rand(4, 1, 32, 32, generator=rng("cpu", 0, "real")) * 2 - 1
    context = {"unlabelled": unlabelled, "progress": 0.9, **context}
    return graph.step(real, torch.arange(4) % 2, rng("cpu", 0, "latent"), **context)


def evaluated(graph: TrainingGraph, terms: list[Term]) -> dict[str, Tensor]:
    again = copy.copy(graph)
    again.terms = terms
    torch.manual_seed(len(terms))  # of no concern to what terms draw
    return again.evaluate(drawn_step(again))[0]


@pytest.mark.parametrize("score", installed().names("score"))
def test_a_score_changes_no_number_of_another_term(drawing: TrainingGraph, score: str) -> None:
    """Neither for the log alone nor with an audience, wherever it stands; to the bit."""
    others = [term for term in drawing.terms if term.name != score]
    (added,) = (term for term in drawing.terms if term.name == score)
    wanted = evaluated(drawing, others)
    for first in (replace(added, trains=frozenset()), added):
        found = evaluated(drawing, [first, *others])
        for name, value in wanted.items():
            assert torch.equal(found[name], value), name
    assert torch.equal(found[score], evaluated(drawing, [*reversed(others), added])[score])


def test_scores_for_the_log_alone_change_no_bit_of_the_training(drawing: TrainingGraph) -> None:
    """Nor do the passes through networks that nobody else asks for."""
    audience = [t for t in drawing.terms if t.name in ("generator", "discriminator")]
    logged = [replace(t, trains=frozenset()) for t in drawing.terms if t not in audience]
    came_to = []
    for terms in (audience, [*logged, *audience]):
        graph = copy.deepcopy(drawing)
        names = {term.name: term.trains for term in terms}
        by_name = {term.name: term for term in graph.terms}  # the copy's own scores
        graph.terms = [replace(by_name[name], trains=names[name]) for name in names]
        gradients = graph.gradients(drawn_step(graph))[1]
        state = {
            f"{name} {key}": value
            for name in ("generator", "discriminator", "classifier", "augmenter")
            for key, value in graph.networks[name].state_dict().items()
        }
        came_to.append((gradients, state))
    (wanted, states), (found, states_with) = came_to
    for network in ("generator", "discriminator"):
        for ours, theirs in zip(found[network], wanted[network], strict=True):
            assert (ours is theirs) or torch.equal(ours, theirs), network
    for name, value in states.items():
        assert torch.equal(states_with[name], value), name


def test_a_score_for_the_log_alone_leaves_the_averages_of_waiting_networks(
    drawing: TrainingGraph,
) -> None:
    """A mean teacher is read in training mode: its batch norms count what they have seen."""
    (teacher,) = (t for t in drawing.terms if t.name == "mean_teacher")
    graph = copy.deepcopy(drawing)
    graph.terms = [replace(teacher, trains=frozenset())]
    graph.ema["classifier"].train()
    before = copy.deepcopy(graph.ema["classifier"].state_dict())
    graph.evaluate(drawn_step(graph, learning=frozenset({"generator"})))
    for name, value in graph.ema["classifier"].state_dict().items():
        assert torch.equal(value, before[name]), name

"""A training graph of networks of one weight each, whose gradients can be written down."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_step import Augments, N, Noting, S, autocast, step_of
from torch import Tensor, nn

from xraygan import Task, UserError
from xraygan.distributed.ranks import DistributedContext, RankFailed
from xraygan.errors import NoFault
from xraygan.graph.graph import TrainingGraph, _plus
from xraygan.graph.parameters import copies, state_of, trained_parameters, update_ema
from xraygan.graph.step import TrainingStep
from xraygan.graph.terms import Term
from xraygan.parts.part_config import PartConfig
from xraygan.parts.plugin_errors import BadAnswer, PluginFault
from xraygan.parts.registry import Part
from xraygan.utils.seeding import derive_seed, rng
from xraygan.utils.tensors import flattened

OWN = "xraygan"
TASK = Task(S, ("A", "B", "C"), exclusive=True)


class Makes(Noting):
    """Images of one grey: the weight times the mean of the latents."""

    def forward(self, z: Tensor) -> Tensor:
        return (self.weight * z.mean(dim=1))[:, None, None, None].expand(-1, 1, S, S)


class Scales(Noting):
    def forward(self, images: Tensor) -> Tensor:
        return self.weight * images.mean(dim=(1, 2, 3))


class Frozen(Scales):
    """A network with a parameter that nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.still = nn.Parameter(torch.ones(()), requires_grad=False)


def choice(table: str, kind: str = "score", origin: str = "their 1.0") -> PartConfig:
    return PartConfig(table, Part(kind, "bad", origin, ""), None, {})


def graph_of(terms: list[Term], **changes: Any) -> TrainingGraph:
    networks: dict[str, Any] = {
        "generator": Makes(), "discriminator": Scales(), "classifier": Frozen(), "own": Scales(),
    }  # fmt: skip
    for network in networks.values():
        network.norm = nn.Identity() if network is not networks["classifier"] else network.norm
    networks |= changes.pop("networks", {})
    optimizers = changes.pop("optimizers", None)
    if optimizers is None:
        optimizers = {
            name: torch.optim.SGD(
                [nn.Parameter(flattened(p.data, p)) for p in trained_parameters(network)], lr=0.5
            )
            for name, network in networks.items()
            if isinstance(network, nn.Module) and name != "augmenter"
        }
    return TrainingGraph(TASK, networks, {}, terms, optimizers, **changes)


def taken(graph: TrainingGraph, **context: Any) -> TrainingStep:
    real = step_of().real
    return graph.step(real, torch.arange(N) % 3, rng("cpu", 7, "latent"), **context)


def term(name: str, compute: Callable[[TrainingStep], Tensor], *trains: str, weight: float = 1.0,
         **more: Any) -> Term:  # fmt: skip
    return Term(name, compute, weight, frozenset(trains), **more)


def judged(step: TrainingStep) -> Tensor:
    return step.networks["discriminator"](step.fake).mean()


def own(step: TrainingStep) -> Tensor:
    return step.networks["own"](step.fake).mean()


def weights(gradients: dict) -> dict[str, float | None]:
    return {
        name: None if found[0] is None else float(found[0]) for name, found in gradients.items()
    }


# -- steps and values ------------------------------------------------------------------------------


def test_a_step_is_over_the_networks_of_its_graph() -> None:
    extractors, choices, ranks = (
        {"any": nn.Identity()},
        {"classifier": choice("classifier")},
        DistributedContext(),
    )
    graph = TrainingGraph(
        TASK,
        {"classifier": nn.Linear(2, 2)},
        extractors,  # type: ignore[arg-type]
        [term("a", judged), term("b", judged)],
        {},
        ema_decays={"classifier": 0.5},
        autocast=autocast,
        ranks=ranks,
        choices=choices,
    )
    step = taken(graph, progress=0.25, shard=(1, 3))
    assert (step.task, step.progress, step.shard) == (TASK, 0.25, (1, 3))
    assert step.networks is graph.networks and step.extractors == extractors
    assert step.averages == graph.ema and step._autocast is autocast
    assert step.ranks is ranks and step._choices == choices and step._taken == {"a", "b"}
    assert step._fake_statistics
    assert torch.equal(step.real, step_of().real) and step.labels.tolist() == [0, 1, 2, 0]
    assert step._streams.seed == rng("cpu", 7, "latent").initial_seed()
    real = graph_of([term("a", judged), term("classification", judged)])
    assert not taken(real)._fake_statistics and taken(real).averages == {}
    assert (
        real.ranks == DistributedContext()
        and real.prior_steps == real.schedules == real.states == {}
    )


def test_averages_begin_as_their_networks_and_are_not_trained() -> None:
    graph = graph_of([], ema_decays={"classifier": 0.5})
    average, network = graph.ema["classifier"], graph.networks["classifier"]
    assert average is not network and [*graph.ema] == ["classifier"]
    assert not any(p.requires_grad for p in average.parameters())
    assert network.weight.requires_grad and float(average.weight) == 2.0
    assert graph.trained("classifier") is average
    assert graph.trained("generator") is graph.networks["generator"]


@pytest.mark.parametrize(
    ("choices", "foreign"),
    [
        ({}, False),
        ({"a": choice("a", origin=OWN)}, False),
        ({"a": choice("a", origin=OWN), "b": choice("b")}, True),
        ({"a": choice("a", "metric"), "b": choice("b", "tracker"), "c": choice("c", "dataset")},
         False),
    ],
)  # fmt: skip
def test_only_other_distributions_parts_of_steps_are_foreign(
    choices: dict[str, PartConfig], foreign: bool
) -> None:
    graph = graph_of([], choices=choices)
    assert graph.has_third_party is foreign and bool(graph.leak_check._choices) is foreign


def test_values_are_unweighted_and_losses_are_weighted() -> None:
    graph = graph_of([
        term("logged", judged, weight=9.0),
        term("judged", judged, "discriminator", weight=3.0),
        term("waits", judged, "classifier"),
        term("constant", lambda step: torch.tensor(4.0), "generator", weight=2.0),
    ])  # fmt: skip
    step = taken(graph, learning=frozenset({"generator", "discriminator"}))
    values, losses = graph.evaluate(step)
    mean = float(step.fake.detach().mean())
    assert [*values] == ["logged", "judged", "constant"]
    assert {n: float(v) for n, v in values.items()} == pytest.approx(
        {"logged": 2 * mean, "judged": 2 * mean, "constant": 4.0}
    )
    assert not any(value.requires_grad for value in values.values())
    assert [*losses] == ["judged"] and losses["judged"].item() == pytest.approx(6 * mean)


def test_terms_for_the_log_alone_come_last_and_move_nothing() -> None:
    asked: list[str] = []

    def note(name: str) -> Callable[[TrainingStep], Tensor]:
        def compute(step: TrainingStep) -> Tensor:
            asked.append(name)
            step.networks["classifier"].norm(step.real)
            step.averages["classifier"].norm(step.real)
            return step.real.mean()

        return compute

    graph = graph_of(
        [term("logged", note("logged")), term("learned", note("learned"), "classifier")],
        ema_decays={"classifier": 0.5},
    )
    norms = graph.networks["classifier"].norm, graph.ema["classifier"].norm
    graph.evaluate(taken(graph))
    assert asked == ["learned", "logged"]
    assert [int(norm.num_batches_tracked) for norm in norms] == [1, 1]
    states = {"labeler": nn.BatchNorm1d(1)}
    assert len(graph_of([], ema_decays={"classifier": 0.5}, states=states).buffers()) == 9
    found = graph.buffers()
    assert len(found) == 6
    assert any(b is norms[0].running_mean for b in found)
    assert any(b is norms[1].running_var for b in found)


def test_each_term_draws_from_a_stream_of_its_own() -> None:
    seeds: list[int] = []

    def compute(step: TrainingStep) -> Tensor:
        seeds.append(step.rng.initial_seed())
        return step.real.mean()

    graph = graph_of([term("a", compute, "classifier"), term("b", compute)])
    graph.evaluate(taken(graph))
    base = rng("cpu", 7, "latent").initial_seed()
    assert seeds == [derive_seed(base, "term", "a"), derive_seed(base, "term", "b")]


@pytest.mark.parametrize("trains", [("classifier",), ()])
def test_what_a_term_answers_is_held_to_be_a_number(trains: tuple[str, ...]) -> None:
    part = choice("scores.mine")
    graph = graph_of([term("mine", lambda step: step.real, *trains, choice=part, method="loss()")])
    with pytest.raises(PluginFault, match=r"^\[scores.mine\].*loss\(\) returned shape"):
        graph.evaluate(taken(graph))
    graph = graph_of([term("mine", lambda step: 1.0, *trains)])  # type: ignore[arg-type, return-value]
    with pytest.raises(BadAnswer, match="expected a tensor"):
        graph.evaluate(taken(graph))


def test_what_other_distributions_give_is_watched() -> None:
    theirs, ours = choice("scores.a"), choice("scores.b", origin=OWN)
    held: list[Tensor] = []

    def keep(step: TrainingStep) -> Tensor:
        held.append(judged(step))
        return held[-1]

    graph = graph_of([
        term("a", keep, "discriminator", choice=theirs),
        term("c", keep, "discriminator", choice=theirs),
        term("b", judged, "discriminator", choice=ours),
        term("d", judged, "discriminator"),
    ])  # fmt: skip
    step = taken(graph)
    graph.evaluate(step)
    assert [*step.watch.values] == ["scores.a"]
    assert [found() is one for found, one in zip(step.watch.values["scores.a"], held, strict=True)]


# -- who learns ------------------------------------------------------------------------------------


NOBODY = (
    "returned a value from which no gradient reaches the {}, so no network learns from it. Compute "
    "it from the step's tensors of these networks, without detach() or no_grad(); to log it alone, "
    "set trains = []"
)


@pytest.mark.parametrize(
    ("compute", "trains", "reached"),
    [
        (judged, ("discriminator",), True),
        (judged, ("generator",), True),
        (judged, ("classifier", "generator"), True),
        (judged, ("classifier",), False),
        (lambda step: judged(step).detach(), ("generator", "discriminator"), False),
        (lambda step: step.networks["discriminator"](step.real).mean(), ("generator",), False),
    ],
)
def test_somebody_has_to_learn_from_a_term(
    compute: Callable[[TrainingStep], Tensor], trains: tuple[str, ...], reached: bool
) -> None:
    graph = graph_of([term("mine", compute, *trains, choice=choice("scores.mine"))])
    if reached:
        graph.evaluate(taken(graph))
    else:
        with pytest.raises(PluginFault) as caught:
            graph.evaluate(taken(graph))
        assert str(caught.value).endswith(NOBODY.format(" and ".join(sorted(trains))))
        graph.evaluate(taken(graph))  # it is asked once
    unnamed = graph_of([term("mine", compute, *trains)])
    unnamed.evaluate(taken(unnamed))


def test_a_term_is_held_to_it_once_all_its_networks_learn() -> None:
    mine = term("mine", lambda step: step.real.mean(), "generator", "classifier",
                choice=choice("scores.mine"))  # fmt: skip
    graph = graph_of([mine])
    graph.evaluate(taken(graph, learning=frozenset({"generator"})))
    with pytest.raises(PluginFault, match="classifier and generator"):
        graph.evaluate(taken(graph, learning=frozenset({"generator", "classifier", "own"})))
    exactly = graph_of([mine])
    with pytest.raises(PluginFault, match="classifier and generator"):
        exactly.evaluate(taken(exactly, learning=mine.trains))
    logged = graph_of([term("mine", lambda step: step.real.mean(), choice=choice("scores.mine"))])
    logged.evaluate(taken(logged))


def test_gradients_are_of_the_weighted_terms_of_each_network() -> None:
    graph = graph_of([
        term("a", judged, "discriminator", weight=3.0),
        term("b", judged, "generator", "discriminator", weight=-1.0),
        term("c", own, "generator", "own", weight=10.0),
    ])  # fmt: skip
    step = taken(graph, learning=frozenset({"generator", "discriminator", "classifier", "own"}))
    values, gradients = graph.gradients(step)
    z = float(step.z.mean())
    assert [*values] == ["a", "b", "c"] and [*gradients] == [*graph.optimizers]
    found = weights(gradients)
    assert found.pop("classifier") is None
    assert found == pytest.approx(
        {"discriminator": 2 * 2 * z, "own": 10 * 2 * z, "generator": (-1 * 2 + 10 * 2) * z},
        rel=1e-4,
    )
    for name, all_of in gradients.items():
        assert len(all_of) == len(trained_parameters(graph.networks[name]))


def test_networks_that_wait_learn_nothing() -> None:
    graph = graph_of([term("b", judged, "generator", "discriminator")])
    del graph.optimizers["own"]
    step = taken(graph, learning=frozenset({"discriminator", "own"}))
    _, gradients = graph.gradients(step)
    assert [*gradients] == ["discriminator"] and not step.fake.requires_grad
    assert weights(gradients)["discriminator"] == pytest.approx(2 * float(step.z.mean()), rel=1e-4)


def test_a_step_can_be_gone_through_again_where_that_is_asked() -> None:
    terms = [term("a", judged, "generator"), term("b", judged, "discriminator")]
    graph = graph_of(terms)
    step = taken(graph)
    _, losses = graph.evaluate(step)
    first = weights(graph.differentiate(step, {"a": losses["a"]}, keep=True))
    assert first["discriminator"] is None
    again = weights(graph.differentiate(step, losses, keep=True))
    assert again["generator"] == first["generator"] and again["discriminator"] is not None
    # The last pass frees the graph, also where no gradient goes on through the generator.
    for learning in (frozenset(graph.optimizers), frozenset({"discriminator"})):
        step = taken(graph, learning=learning)
        _, losses = graph.evaluate(step)
        graph.differentiate(step, losses)
        with pytest.raises(RuntimeError, match="second time"):
            graph.differentiate(step, losses)


def test_a_parameter_through_which_a_network_makes_images_gets_both_its_gradients() -> None:
    """What reaches the generator's weight past the images is added."""

    def penalty(step: TrainingStep) -> Tensor:
        return judged(step) + step.networks["generator"].weight * 5

    graph = graph_of([term("a", penalty, "generator")])
    step = taken(graph)
    _, gradients = graph.gradients(step)
    found = weights(gradients)["generator"]
    assert found == pytest.approx(5 + 2 * float(step.z.mean()), rel=1e-4)


def test_a_parameter_that_nothing_reached_has_no_gradient() -> None:
    graph = graph_of([term("a", judged, "generator")], networks={"generator": Makes()})
    _, gradients = graph.gradients(taken(graph))
    weight, *norm = gradients["generator"]
    assert weight is not None and norm == [None, None]


def test_networks_of_the_same_terms_share_a_pass() -> None:
    graph = graph_of([
        term("a", judged, "discriminator", "classifier"),
        term("b", judged, "generator", "own"),
        term("c", judged, "generator"),
        term("d", judged, "second"),
    ])  # fmt: skip
    every = ["own", "generator", "discriminator", "classifier"]
    assert graph._backward_passes(["a", "b", "c"], every) == [
        (["b", "c"], ["generator", "own"]),
        (["a"], ["discriminator", "classifier"]),
    ]
    assert graph._backward_passes(["a", "b"], ["own", "generator"]) == [
        (["b"], ["generator", "own"])
    ]
    assert graph._backward_passes(["b"], ["own", "discriminator"]) == [(["b"], ["own"])]
    graph._score_networks |= {"second"}
    assert graph._backward_passes(["b", "c", "d"], ["generator", "own", "second"]) == [
        (["b", "c"], ["generator", "own"]),
        (["d"], ["second"]),
    ]


def test_a_scores_own_network_is_frozen_for_the_terms_that_do_not_train_it() -> None:
    seen: list[tuple[bool, bool]] = []

    def note(step: TrainingStep) -> Tensor:
        networks = step.networks
        seen.append(
            (networks["own"].weight.requires_grad, networks["classifier"].weight.requires_grad)
        )
        if len(seen) == 3:
            raise ZeroDivisionError
        return step.real.mean()

    graph = graph_of([term("a", note, "own"), term("b", note, "classifier")])
    graph.evaluate(taken(graph))
    assert seen == [(True, True), (False, True)]
    assert graph.networks["own"].weight.requires_grad
    graph.terms = graph.terms[1:]
    with pytest.raises(ZeroDivisionError):
        graph.evaluate(taken(graph))
    assert graph.networks["own"].weight.requires_grad
    assert not graph.networks["classifier"].still.requires_grad


def test_weights_are_cast_once_in_a_step() -> None:
    """Networks turn autocast on, terms are computed without it."""
    on: list[bool] = []

    def note(step: TrainingStep) -> Tensor:
        on.append(torch.is_autocast_enabled("cpu"))
        return judged(step)

    graph = graph_of(
        [term("a", note, "discriminator")],
        autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    )
    graph.gradients(taken(graph))
    assert on == [False] and not torch.is_autocast_enabled("cpu")


# -- whose fault it is -----------------------------------------------------------------------------


def spoilt(step: TrainingStep) -> Tensor:
    """A value whose gradient cannot be taken: what autograd needs is changed."""
    value = step.networks["discriminator"].weight.exp()
    total = value * value
    value.add_(1)
    return total + judged(step) * 0


CANNOT = "the gradient of its value cannot be taken: RuntimeError: one of the variables"


def test_a_gradient_that_cannot_be_taken_is_blamed_on_terms_of_others() -> None:
    theirs = choice("scores.mine")
    graph = graph_of([
        term("mine", spoilt, "discriminator", choice=theirs),
        term("ours", judged, "discriminator", choice=choice("scores.ours", origin=OWN)),
        term("more", judged, "generator", choice=choice("scores.more")),
        term("waits", judged, "own", choice=choice("scores.waits")),
    ], choices={"scores.mine": theirs, "generator": choice("generator", "generator")})  # fmt: skip
    learning = frozenset({"generator", "discriminator"})
    with pytest.raises(PluginFault) as caught:
        graph.gradients(taken(graph, learning=learning))
    said = str(caught.value)
    assert said.startswith(
        "[scores.mine] (the score 'bad' of their 1.0) or [scores.more] (the score 'bad' of their "
        f"1.0): {CANNOT}"
    )
    assert said.endswith(
        ". A plugin must not call backward(), nor change tensors that autograd needs in place"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_else_it_is_blamed_on_networks_of_others() -> None:
    mine = [term("mine", spoilt, "discriminator")]
    choices = {
        "generator": choice("generator", "generator"),
        "classifier": choice("classifier", "classifier", OWN),
        "metrics.m": choice("metrics.m", "metric"),
    }
    graph = graph_of(mine, choices=choices)
    with pytest.raises(PluginFault) as caught:
        graph.gradients(taken(graph))
    assert str(caught.value).startswith(f"[generator] (the generator 'bad' of their 1.0): {CANNOT}")
    ours = graph_of(mine)
    with pytest.raises(RuntimeError, match="one of the variables"):
        ours.gradients(taken(ours))


@pytest.mark.parametrize(
    "error", [UserError("x"), NoFault("x"), torch.OutOfMemoryError("x"), ValueError("x")]
)
def test_what_is_nobodys_fault_is_not_blamed(error: Exception) -> None:
    graph = graph_of([term("a", judged, "discriminator", choice=choice("scores.mine"))])

    def fail(*_: Any) -> Any:
        raise error

    graph.differentiate = fail  # type: ignore[method-assign]
    blamed = isinstance(error, ValueError)
    with pytest.raises(PluginFault if blamed else type(error)) as caught:
        graph.gradients(taken(graph))
    assert blamed or caught.value is error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (torch.distributed.DistBackendError("closed"), RankFailed, "closed"),
        (
            RuntimeError("derivative for aten::batch_norm_backward_elemt is not implemented"),
            PluginFault,
            "twice: train on one GPU, without --devices",
        ),
    ],
)
def test_a_gradient_through_batch_norms_of_several_gpus_says_what_is_wrong(
    error: Exception, kind: type[Exception], said: str
) -> None:
    graph = graph_of([term("a", judged, "discriminator", choice=choice("scores.mine"))])

    def fail(*_: Any) -> Any:
        raise error

    graph.differentiate = fail  # type: ignore[method-assign]
    with pytest.raises(kind, match=f"{said}$"):
        graph.gradients(taken(graph))


def test_the_origin_of_a_term() -> None:
    graph = graph_of([
        term("a", judged, choice=choice("scores.a", origin=OWN)),
        term("b", judged, choice=choice("scores.b")),
        term("c", judged),
    ])  # fmt: skip
    assert [graph.describe_term_origin(name) for name in "abcd"] == [
        "",
        "the score 'bad' of their 1.0",
        "",
        "",
    ]


# -- updates ---------------------------------------------------------------------------------------


def ones(graph: TrainingGraph, *names: str) -> Any:
    return {n: [torch.ones_like(p) for p in trained_parameters(graph.networks[n])] for n in names}


def test_each_optimizer_takes_one_step() -> None:
    graph = graph_of([], schedules={"discriminator": lambda x: 1 - x, "own": lambda x: x})
    gradients = ones(graph, "discriminator", "classifier")
    gradients["classifier"][0] = None
    graph.update(gradients, 3, progress=0.25)
    assert float(graph.networks["discriminator"].weight) == pytest.approx(2 - 0.5 * 0.75)
    assert float(graph.networks["classifier"].weight) == 2.0
    assert graph.networks["classifier"].norm.weight.item() == 0.5
    assert float(graph.networks["own"].weight) == 2.0
    assert graph.optimizers["own"].param_groups[0]["lr"] == 0.125  # it waits
    for optimizer in graph.optimizers.values():
        assert all(row.grad is None for row in optimizer.param_groups[0]["params"])
    graph.update(ones(graph, "own"), 4)
    assert graph.optimizers["own"].param_groups[0]["lr"] == 0.0


def test_a_network_that_was_moved_is_still_the_one_that_learns() -> None:
    graph = graph_of([])
    network = graph.networks["discriminator"]
    network.weight.data = network.weight.data.clone() + 1
    graph.update(ones(graph, "discriminator"), 0)
    assert float(network.weight) == 2.5


def test_nothing_is_learned_from_a_step_that_is_held() -> None:
    """By optimizers that ask for it; the augmenter is told."""
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(1))], fused=True)
    network = nn.Linear(1, 1, bias=False)
    adam.param_groups[0]["params"][0].data = flattened(network.weight.data, network.weight)
    told: list[Any] = []
    augmenter = SimpleNamespace(adapt=told.append, buffers=lambda: [], parameters=lambda: [])
    graph = graph_of(
        [],
        networks={"classifier": network, "augmenter": augmenter},
        optimizers={"classifier": adam},
    )
    before, held = float(network.weight), torch.ones(())
    graph.update(ones(graph, "classifier"), 0, held)
    assert float(network.weight) == before and told == [held]
    graph.update(ones(graph, "classifier"), 1, torch.zeros(()))
    assert float(network.weight) != before
    graph.update(ones(graph, "classifier"), 2)
    assert told[2] is None


def test_an_augmenter_at_fault_is_named_before_anybody_learns() -> None:
    def broken(held: Any) -> None:
        raise ZeroDivisionError("it broke")

    augmenter: Any = Augments()
    augmenter.adapt = broken
    theirs = choice("augmenter", "augmenter")
    graph = graph_of([], networks={"augmenter": augmenter}, choices={"augmenter": theirs})
    with pytest.raises(PluginFault, match=r"^\[augmenter\].*adapt\(\) raised ZeroDivisionError"):
        graph.update(ones(graph, "discriminator"), 0)
    assert float(graph.networks["discriminator"].weight) == 2.0


@pytest.mark.parametrize(
    ("step", "age", "decay"), [(0, 0, 0.0), (1, 0, 0.5), (1, 2, 0.75), (99, 0, 0.9), (8, 1, 0.9)]
)
def test_an_average_forgets_faster_at_first(step: int, age: int, decay: float) -> None:
    ages = {"classifier": age} if age else {}
    graph = graph_of([], ema_decays={"classifier": 0.9, "own": 0.9}, prior_steps=ages)
    graph.networks["classifier"].norm.running_mean.fill_(7)
    graph.networks["own"].weight.data.fill_(5)
    graph.update(ones(graph, "classifier"), step)
    average = graph.ema["classifier"]
    assert float(average.weight) == pytest.approx(decay * 2 + (1 - decay) * 1.5)
    assert float(average.norm.running_mean) == 7
    assert float(graph.ema["own"].weight) == 2.0  # it waits


def test_an_average_of_a_network() -> None:
    mine, its = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    with torch.no_grad():
        its.weight.fill_(3)
        its.running_var.fill_(9)  # type: ignore[union-attr, operator]
    update_ema(mine, its, 0.25)
    assert float(mine.weight) == 1.5 and float(mine.running_var) == 9  # type: ignore[arg-type]


def test_the_mean_over_ranks_is_asked_with_the_trained_parameters() -> None:
    graph, asked = graph_of([]), []

    class Two(DistributedContext):
        def average_gradients(self, gradients: Any, parameters: Any) -> Any:
            asked.append((gradients, parameters))
            return "the mean"

    graph.ranks = Two(0, 2)
    gradients = ones(graph, "classifier")
    assert graph.mean_over_ranks(gradients) == "the mean"
    ((given, parameters),) = asked
    assert given is gradients and [*parameters] == ["classifier"]
    assert len(parameters["classifier"]) == 3


# -- pieces ----------------------------------------------------------------------------------------


def test_a_row_is_in_its_parameters_order() -> None:
    plain = torch.arange(24.0).view(2, 3, 2, 2)
    parameter = plain.to(memory_format=torch.channels_last)
    row = flattened(parameter, parameter)
    assert row.data_ptr() == parameter.data_ptr() and row.shape == (24,)
    assert row.tolist() == plain.permute(0, 2, 3, 1).flatten().tolist()
    again = flattened(plain.double(), parameter)
    assert again.dtype == torch.float64 and again.tolist() == row.tolist()
    row += 1
    assert torch.equal(parameter, plain + 1)


def test_a_state_is_of_persistent_buffers() -> None:
    module = nn.BatchNorm1d(2)
    module.register_buffer("gone", torch.zeros(1), persistent=False)
    assert [*state_of(module)] == ["running_mean", "running_var", "num_batches_tracked"]
    assert [p is q for p, q in zip(trained_parameters(module), module.parameters(), strict=True)]
    frozen = Frozen()
    assert len(trained_parameters(frozen)) == 3 and len([*frozen.parameters()]) == 4


def test_what_is_added_may_be_missing() -> None:
    one, two = torch.ones(()), torch.tensor(2.0)
    assert _plus(one, None) is one and _plus(None, two) is two and _plus(None, None) is None
    assert float(_plus(one, two)) == 3  # type: ignore[arg-type]


def test_copies_are_made_in_those_of_before_if_these_fit() -> None:
    first = copies([torch.ones(2), torch.ones(3, dtype=torch.int64)])
    again = copies([torch.zeros(2), torch.full((3,), 5)], first)
    assert [c is kept for c, kept in zip(again, first, strict=True)] == [True, True]
    assert [c.tolist() for c in again] == [[0.0, 0.0], [5, 5, 5]]
    others: list[list[torch.Tensor]] = [
        [torch.ones(1), torch.full((3,), 2)],  # it would be broadcast,
        [torch.ones(2), torch.full((3,), 0.5)],  # it would be rounded,
        [torch.ones(2)],
    ]
    for tensors in others:
        made = copies(tensors, again)
        assert all(
            torch.equal(c, t) and c.dtype == t.dtype for c, t in zip(made, tensors, strict=True)
        )
    assert [c.tolist() for c in again] == [[0.0, 0.0], [5, 5, 5]]

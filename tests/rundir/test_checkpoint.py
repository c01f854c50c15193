"""Checkpoints of two small networks: what is saved, found, kept, pointed to, and said of damage."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xraygan import Task, UserError
from xraygan.graph.graph import TrainingGraph
from xraygan.graph.parameters import trained_parameters
from xraygan.rundir import checkpoint
from xraygan.rundir.checkpoint import adopt, find, latest, point, save
from xraygan.rundir.manifest import Gathered
from xraygan.utils.atomic_files import sync, sync_folder
from xraygan.utils.parsing import sha256
from xraygan.utils.tensors import flattened


class Remembers(nn.Module):
    """A part that is no network, with a buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))


def graph_of(seed: int, remembers: bool = True) -> TrainingGraph:
    torch.manual_seed(seed)
    networks = {
        "generator": nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)),
        "classifier": nn.Linear(3, 2),
    }
    networks["generator"].to(memory_format=torch.channels_last)
    optimizers = {
        name: torch.optim.Adam(
            [nn.Parameter(flattened(p.data, p)) for p in trained_parameters(network)]
        )
        for name, network in networks.items()
    }
    graph = TrainingGraph(
        Task(16, ("A", "B"), exclusive=True),
        networks,
        {},
        [],
        optimizers,
        ema_decays={"classifier": 0.5},
        states={"labeler": Remembers()} if remembers else {},
    )
    for done in range(2):
        gradients: Any = {
            name: [torch.randn_like(p) for p in trained_parameters(network)]
            for name, network in networks.items()
        }
        graph.update(gradients, done)
    if remembers:
        graph.states["labeler"].seen.fill_(seed)
    networks["generator"][1].running_mean.fill_(seed)
    return graph


def state(graph: TrainingGraph) -> dict[str, Any]:
    """All that decides how a graph goes on."""
    found: dict[str, Any] = {}
    for name, network in (*graph.networks.items(), *graph.ema.items(), *graph.states.items()):
        found |= {f"{name} {id(network) in map(id, graph.ema.values())} {k}": v.tolist()
                  for k, v in network.state_dict().items()}  # fmt: skip
    for name, optimizer in graph.optimizers.items():
        for i, row in optimizer.state_dict()["state"].items():
            found |= {f"{name} {i} {k}": v.tolist() for k, v in row.items()}
    return found


def written(folder: Path, *steps: int, **more: Any) -> TrainingGraph:
    graph = graph_of(1)
    for step in steps:
        save(folder, step, graph, **more)
    return graph


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(folder: Path, step: int) -> Path:
    path = folder / f"step-{step:08d}" / "classifier.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


# -- saving and loading ----------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    folder, graph = tmp_path / "run" / "checkpoints", graph_of(1)
    log = Gathered(sums={"loss": 1.5}, counts={"loss": 3}, steps=3)
    place = save(folder, 12, graph, log=log)
    assert place == folder / "step-00000012"
    assert names(folder) == ["latest", "step-00000012"]
    files = [
        "classifier.average.safetensors",
        "classifier.optimizer.safetensors",
        "classifier.safetensors",
        "generator.optimizer.safetensors",
        "generator.safetensors",
        "labeler.state.safetensors",
    ]
    assert names(place) == [*files[:5], "labeler.state.safetensors", "manifest.json"]
    text = (place / "manifest.json").read_text()
    assert text.startswith('{\n "format": 1,\n "step": 12,\n') and text.endswith("}\n")
    content = json.loads(text)
    assert content["files"] == {name: sha256(place / name) for name in files}
    assert content["log"] == {**log.model_dump()}
    found = latest(folder)
    assert found is not None
    assert (found.step, found.directory, found.manifest.log) == (12, place, log)
    assert sorted(found.networks()) == ["classifier", "classifier.average", "generator"]
    other = graph_of(2)
    assert state(other) != state(graph)
    found.load(other)
    assert state(other) == state(graph)
    assert all(
        optimizer.param_groups[0]["params"][0].data_ptr() for optimizer in other.optimizers.values()
    )
    networks = graph_of(2)
    found.load_networks(networks)
    ours, theirs = state(networks), state(graph)
    assert all((ours[key] == theirs[key]) == ("exp_avg" not in key) for key in ours
               if "labeler" not in key and "step" not in key)  # fmt: skip


def test_an_optimizers_moments_are_those_of_its_parameters(tmp_path: Path) -> None:
    """Stored in C order by name, whatever order the network's memory has."""
    graph = written(tmp_path, 1)
    saved = load_file(tmp_path / "step-00000001" / "generator.optimizer.safetensors")
    assert sorted(saved) == sorted(
        f"{name}/{what}"
        for name in ("0.weight", "0.bias", "1.weight", "1.bias")
        for what in ("exp_avg", "exp_avg_sq", "step")
    )
    weight = graph.networks["generator"][0].weight
    assert not weight.is_contiguous() and saved["0.weight/exp_avg"].shape == weight.shape
    row = graph.optimizers["generator"].param_groups[0]["params"][0]
    moments = graph.optimizers["generator"].state[row]["exp_avg"]
    assert torch.equal(flattened(saved["0.weight/exp_avg"], weight), moments)


def test_an_optimizer_that_has_not_begun_has_no_state(tmp_path: Path) -> None:
    graph = written(tmp_path, 1)
    fresh = graph_of(2)
    path = tmp_path / "step-00000001" / "classifier.optimizer.safetensors"
    save_file({}, path)
    assert latest(tmp_path) is None  # its hash is another
    manifest = path.with_name("manifest.json")
    content = json.loads(manifest.read_text())
    content["files"][path.name] = sha256(path)
    manifest.write_text(json.dumps(content))
    again = latest(tmp_path)
    assert again is not None
    again.load(fresh)
    assert fresh.optimizers["classifier"].state_dict()["state"] == {}
    assert state(fresh)["generator 0 exp_avg"] == state(graph)["generator 0 exp_avg"]


def test_a_checkpoint_that_is_there_whole_is_not_written_again(tmp_path: Path) -> None:
    written(tmp_path, 1)
    before = (tmp_path / "step-00000001" / "manifest.json").stat().st_mtime_ns
    save(tmp_path, 1, graph_of(2))
    assert (tmp_path / "step-00000001" / "manifest.json").stat().st_mtime_ns == before
    damage(tmp_path, 1)
    (tmp_path / ".step-00000001.building").mkdir()
    (tmp_path / ".step-00000001.building" / "half").touch()
    save(tmp_path, 1, graph_of(2))
    found, other = latest(tmp_path), graph_of(3)
    assert found is not None
    found.load(other)
    assert state(other) == state(graph_of(2))
    assert names(tmp_path) == ["latest", "step-00000001"]


def test_a_save_removes_what_a_killed_one_wrote_of_another_step(tmp_path: Path) -> None:
    """A run that was killed while it saved after a signal need not save that step again."""
    (tmp_path / ".step-00000003.building").mkdir()
    (tmp_path / ".step-00000003.building" / "half").touch()
    written(tmp_path, 4)
    assert names(tmp_path) == ["latest", "step-00000004"]


def test_a_newer_checkpoint_that_is_damaged_does_not_count_as_one_to_keep(tmp_path: Path) -> None:
    written(tmp_path, 1, 2, 3, 4)
    damage(tmp_path, 4)
    checkpoint.tidy(tmp_path, 3, 2)
    assert names(tmp_path) == ["latest", "step-00000002", "step-00000003", "step-00000004"]
    checkpoint.tidy(tmp_path, 3, 0)
    assert names(tmp_path) == ["latest", "step-00000002", "step-00000003", "step-00000004"]


@pytest.mark.parametrize("where", ["weight", "bias"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_parameters_that_are_not_finite_are_not_saved(
    where: str, value: float, tmp_path: Path
) -> None:
    graph = graph_of(1)
    with torch.no_grad():
        getattr(graph.networks["classifier"], where)[-1] = value
    said = (
        f"^{tmp_path}: step 4: {where} of the classifier is not finite, so no checkpoint is saved; "
        "the one before it is intact. A lower learning rate may help$"
    )
    with pytest.raises(UserError, match=said):
        save(tmp_path, 4, graph)
    assert names(tmp_path) == []
    graph = graph_of(1)
    graph.networks["generator"][1].running_var.fill_(torch.inf)  # a buffer may be
    save(tmp_path, 4, graph)


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, whole = graph_of(1), os.fsync

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    says = "cannot be written (.*No space left on device.*); {}. Make room, or make the folder"
    with pytest.raises(UserError, match=says.format("there is none yet")) as caught:
        save(tmp_path, 1, graph)
    assert str(caught.value).startswith(f"{tmp_path}: the checkpoint of step 1 cannot be written")
    assert isinstance(caught.value.__cause__, OSError)
    assert names(tmp_path) == []
    monkeypatch.setattr(os, "fsync", whole)
    save(tmp_path, 1, graph)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=says.format("the checkpoint of step 1 is intact")):
        save(tmp_path, 2, graph)
    assert names(tmp_path) == ["latest", "step-00000001"]


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the checkpoint of step 1 cannot be written \("):
        save(tmp_path / "file", 1, graph_of(1))


def test_files_and_the_folder_are_synced_before_a_checkpoint_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    whole = os.fsync

    def note(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").resolve().name)
        whole(handle)

    monkeypatch.setattr(os, "fsync", note)
    save(tmp_path, 1, graph_of(1))
    assert sorted(synced[:7]) == names(tmp_path / "step-00000001")
    assert synced[7] == tmp_path.name
    handles = len([*Path("/proc/self/fd").iterdir()])
    sync(tmp_path)
    assert len([*Path("/proc/self/fd").iterdir()]) == handles


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_need_not_be_synced_where_there_is_no_such_thing(
    number: int, raises: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if raises:
        with pytest.raises(OSError, match="Input/output error"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)


# -- loading what does not fit ---------------------------------------------------------------------


def only(folder: Path) -> checkpoint.Checkpoint:
    found = latest(folder)
    assert found is not None
    return found


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    written(tmp_path, 1)
    found, place = only(tmp_path), tmp_path / "step-00000001"
    with pytest.raises(UserError) as caught:
        found.load_network("classifier", nn.Linear(4, 2))
    said = str(caught.value)
    assert said.startswith(
        f"{place}: the checkpoint's classifier does not fit the recipe's (size mismatch for weight"
    )
    assert said.endswith(")")
    assert caught.value.__suppress_context__

    class Odd(nn.Linear):
        def load_state_dict(self, *_: Any) -> Any:  # type: ignore[override]
            raise RuntimeError("it is odd")

    with pytest.raises(UserError, match=r"does not fit the recipe's \(it is odd\)$"):
        found.load_network("classifier", Odd(3, 2))
    with pytest.raises(UserError, match=f"^{place}: the checkpoint has no judge.safetensors$"):
        found.load_network("judge", nn.Linear(3, 2))
    part = Remembers()
    part.register_buffer("more", torch.zeros(1))
    with pytest.raises(UserError, match=f"^{place}: the checkpoint's labeler does not fit the rec"):
        found.load_state("labeler", part)


def test_a_file_that_is_no_tensors_is_named(tmp_path: Path) -> None:
    written(tmp_path, 1)
    found, path = only(tmp_path), tmp_path / "step-00000001" / "classifier.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"^{path}: cannot be read \\(") as caught:
        found.load_network("classifier", nn.Linear(3, 2))
    assert caught.value.__suppress_context__
    path.unlink()
    with pytest.raises(UserError, match=f"^{path}: cannot be read \\("):
        found.load_network("classifier", nn.Linear(3, 2))


def test_a_state_that_a_former_version_did_not_save_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, graph_of(1, remembers=False))
    part = Remembers()
    only(tmp_path).load_state("labeler", part)
    assert part.seen.tolist() == [0, 0]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"{tmp_path / 'step-00000001'}: a former version did not save the buffers of [labeler], "
        "so they begin anew; the results differ in their bits from those of an uninterrupted run"
    )


@pytest.mark.parametrize(
    ("file", "key", "value", "what"),
    [
        ("classifier", "weight", torch.nan, "weight of the classifier"),
        ("classifier", "bias", -torch.inf, "bias of the classifier"),
        ("generator", "1.running_mean", torch.nan, "1.running_mean of the generator"),
        ("classifier.optimizer", "weight/exp_avg", torch.inf,
         "weight/exp_avg of the classifier's optimizer"),
        ("generator", "1.running_mean", torch.inf, ""),  # a mask may be
    ],
)  # fmt: skip
def test_values_that_are_no_numbers_are_named(
    file: str, key: str, value: float, what: str, tmp_path: Path
) -> None:
    written(tmp_path, 1)
    found, path = only(tmp_path), tmp_path / "step-00000001" / f"{file}.safetensors"
    tensors = load_file(path)
    tensors[key].flatten()[-1:].fill_(value)
    save_file(tensors, path)
    if what:
        with pytest.raises(UserError) as caught:
            found.load(graph_of(2))
        assert str(caught.value).startswith(
            f"{path.parent}: {what} holds values that are not numbers (NaN or infinite), so"
        )
        assert str(caught.value).endswith(
            ". Choose an earlier checkpoint with --checkpoint STEP, or delete this one and "
            "continue training from the one before it with --resume"
        )
    else:
        found.load(graph_of(2))


# -- finding ---------------------------------------------------------------------------------------


def test_the_newest_whole_checkpoint_is_the_latest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert latest(tmp_path) is None
    written(tmp_path, 9, 10, 100_000_000)
    (tmp_path / "step-7").mkdir()
    assert [p.name for p in checkpoint._newest_first(tmp_path)] == [
        "step-100000000", "step-00000010", "step-00000009",
    ]  # fmt: skip
    assert only(tmp_path).step == 100_000_000
    with pytest.raises(UserError, match=r"there are the steps 100000000, 10, 9$"):
        find(tmp_path, "8")
    damage(tmp_path, 10)
    with pytest.raises(UserError, match=r"choose an intact one: --checkpoint 100000000$"):
        find(tmp_path, "10")
    written(tmp_path, 10)
    damage(tmp_path, 100_000_000)
    assert only(tmp_path).step == 10 and len(caplog.records) == 1
    assert caplog.messages[0] == (
        f"{tmp_path / 'step-100000000'}: damaged, its files do not match its manifest; "
        "it is skipped"
    )
    damage(tmp_path, 10)
    damage(tmp_path, 9)
    assert latest(tmp_path) is None


def test_a_checkpoint_is_found_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find(tmp_path, "latest")
    assert str(caught.value) == (
        f"{tmp_path}: there is no checkpoint; the run has not saved one yet"
    )
    written(tmp_path, 1)
    written(tmp_path, 2, best=True)
    written(tmp_path, 3)
    for which, step in (("latest", 3), ("best", 2), ("1", 1), ("0002", 2)):
        assert find(tmp_path, which).step == step
    for which in ("4", "step-00000001x", "../x", "first"):
        with pytest.raises(UserError) as caught:
            find(tmp_path, which)
        assert str(caught.value) == (
            f"{tmp_path}: there is no checkpoint '{which}'; there are the steps 3, 2, 1"
        )


def test_a_damaged_checkpoint_is_named_with_the_reason_and_the_next(tmp_path: Path) -> None:
    written(tmp_path, 1, 2, 3)
    path = damage(tmp_path, 3)
    reason = f"{path.name} does not match its sha256 in manifest.json"
    place = tmp_path / "step-00000003"
    for which in ("latest", "3"):
        with pytest.raises(UserError) as caught:
            find(tmp_path, which)
        assert str(caught.value) == (
            f"{place}: damaged ({reason}); choose an intact one: --checkpoint 2"
        )
    damage(tmp_path, 2)
    shutil.rmtree(tmp_path / "step-00000001")
    (place / "manifest.json").unlink()
    with pytest.raises(UserError) as caught:
        find(tmp_path, "3")
    assert str(caught.value) == (
        f"{place}: damaged (manifest.json: No such file or directory); none is intact"
    )


# -- keeping ---------------------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    graph = graph_of(1)
    save(tmp_path, 1, graph)
    save(tmp_path, 2, graph, best=True)
    for step in (3, 4, 5):
        save(tmp_path, step, graph)
    assert [p.name[-1] for p in checkpoint._newest_first(tmp_path)] == list("54321")
    save(tmp_path, 6, graph, keep=2)
    assert names(tmp_path) == ["best", "latest", *(f"step-0000000{i}" for i in (2, 5, 6))]
    save(tmp_path, 7, graph, keep=1)
    assert names(tmp_path) == ["best", "latest", "step-00000002", "step-00000007"]
    damage(tmp_path, 7)
    save(tmp_path, 3, graph, keep=1)  # on from step 2; the damaged one goes when it is older
    assert names(tmp_path) == ["best", "latest", *(f"step-0000000{i}" for i in (2, 3, 7))]
    save(tmp_path, 8, graph, keep=1)
    assert names(tmp_path) == ["best", "latest", "step-00000002", "step-00000008"]


def test_a_former_checkpoint_that_cannot_be_removed_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "step-00000001").symlink_to("elsewhere")  # which is not followed
    written(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["elsewhere", "latest", "step-00000001", "step-00000002"]


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    for name in ("step-99999999", "step-100000000", "step-00000002"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoint._newest_first(tmp_path)] == [
        "step-100000000", "step-99999999", "step-00000002",
    ]  # fmt: skip


# -- pointers --------------------------------------------------------------------------------------


def test_a_pointer_is_a_file_with_a_name(tmp_path: Path) -> None:
    written(tmp_path, 1, 2)
    assert (tmp_path / "latest").read_text() == "step-00000002\n"
    point(tmp_path, "latest", 1)
    point(tmp_path, "best", 2)
    point(tmp_path, "best", 3)  # which is not there
    assert (tmp_path / "latest").read_text() == "step-00000001\n"
    assert (tmp_path / "best").read_text() == "step-00000002\n"
    assert find(tmp_path, "latest").step == 2  # whatever the pointer says


def test_a_pointer_that_cannot_be_written_is_removed_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path, 1, 2)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint, "write_atomically", refuse)
    for _ in range(2):
        point(tmp_path, "latest", 1)
        assert not (tmp_path / "latest").exists()
    monkeypatch.setattr(Path, "unlink", refuse)
    (tmp_path / "latest").touch()
    point(tmp_path, "latest", 1)
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.messages[0] == (
        f"{tmp_path / 'latest'}: cannot be written ([Errno 13] Permission denied); "
        f"{tmp_path / 'step-00000001'} is saved"
    )


def test_a_pointer_leads_to_a_checkpoint_beside_it(tmp_path: Path) -> None:
    written(tmp_path, 1, 2)
    pointer, place = tmp_path / "best", tmp_path / "step-00000001"
    assert checkpoint._read_pointer(pointer) is None

    def link(to: str) -> Callable[[], None]:
        return lambda: pointer.symlink_to(to)

    cases: list[tuple[Callable[[], object], Path | None]] = [
        (lambda: pointer.write_text("step-00000001\n"), place),
        (lambda: pointer.write_text("step-00000009"), tmp_path / "step-00000009"),
        (lambda: pointer.write_text("../step-00000001"), None),
        (lambda: pointer.write_text("step-1"), None),
        (lambda: pointer.write_text("step-00000001" + " " * 300), None),
        (lambda: pointer.write_bytes(b"\xff\xfe"), None),
        (link("step-00000001"), place),
        (link("elsewhere/step-00000001"), place),
        (link("."), None),
        (lambda: shutil.copytree(place, pointer), place),
        (pointer.mkdir, None),
    ]
    for make, expected in cases:
        make()
        assert checkpoint._read_pointer(pointer) == expected
        if pointer.is_symlink() or pointer.is_file():
            pointer.unlink()
        else:
            shutil.rmtree(pointer)


def test_the_best_is_known_from_the_log_without_its_pointer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    written(folder, 1, 2)
    with pytest.raises(UserError, match="there is no checkpoint 'best'; there are the steps 2, 1"):
        find(folder, "best")
    lines = [{"step": 1, "best": True}, {"step": 2}]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"values": {}, **line}) + "\n" for line in lines))
    assert find(folder, "best").step == 1
    assert caplog.messages == [
        f"{folder / 'best'}: missing or damaged; by metrics.jsonl the best checkpoint is "
        f"{folder / 'step-00000001'}"
    ]
    point(folder, "best", 2)
    assert find(folder, "best").step == 2
    (folder / "best").unlink()
    shutil.rmtree(folder / "step-00000001")
    with pytest.raises(UserError, match="there is no checkpoint 'best'; there are the steps 2"):
        find(folder, "best")


# -- folders where pointers were -------------------------------------------------------------------


def test_copied_pointers_become_files_again(tmp_path: Path) -> None:
    written(tmp_path, 1, 2)
    point(tmp_path, "best", 1)
    assert adopt(tmp_path) is False
    for name, step in (("latest", 2), ("best", 1)):
        (tmp_path / name).unlink()
        shutil.copytree(tmp_path / f"step-0000000{step}", tmp_path / name)
    assert adopt(tmp_path)
    assert (tmp_path / "latest").read_text() == "step-00000002\n"
    assert (tmp_path / "best").read_text() == "step-00000001\n"
    assert names(tmp_path) == ["best", "latest", "step-00000001", "step-00000002"]
    assert not adopt(tmp_path)


@pytest.mark.parametrize("former", ["absent", "damaged"])
def test_a_folder_that_is_the_only_whole_copy_gets_its_name_back(
    former: str, tmp_path: Path
) -> None:
    written(tmp_path, 2)
    place, pointer = tmp_path / "step-00000002", tmp_path / "latest"
    content = (place / "classifier.safetensors").read_bytes()
    pointer.unlink()
    shutil.copytree(place, pointer)
    if former == "absent":
        shutil.rmtree(place)
    else:
        damage(tmp_path, 2)
    assert adopt(tmp_path)
    assert (place / "classifier.safetensors").read_bytes() == content
    assert pointer.read_text() == "step-00000002\n" and only(tmp_path).step == 2


def test_a_folder_that_is_no_whole_copy_is_not_kept(tmp_path: Path) -> None:
    written(tmp_path, 2)
    place, pointer = tmp_path / "step-00000002", tmp_path / "latest"
    pointer.unlink()
    shutil.copytree(place, pointer)
    (pointer / "classifier.safetensors").write_bytes(b"half")
    (place / "mark").touch()
    assert adopt(tmp_path)
    assert (place / "mark").exists() and pointer.is_file()
    pointer.unlink()
    pointer.mkdir()
    (pointer / "anything").touch()
    assert adopt(tmp_path)
    assert names(tmp_path) == ["step-00000002"]


def test_what_a_killed_former_version_left_is_removed(tmp_path: Path) -> None:
    written(tmp_path, 1)
    left = tmp_path / ".latest.building"
    left.symlink_to("step-00000001")
    point(tmp_path, "latest", 1)
    assert names(tmp_path) == ["latest", "step-00000001"]
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("step-00000001")
    assert not adopt(tmp_path)
    assert (tmp_path / "latest").is_symlink()
    point(tmp_path, "latest", 1)
    assert not (tmp_path / "latest").is_symlink() and len(names(tmp_path / "step-00000001")) == 7

"""How a rank leaves when another one is gone, and what does not mean that one is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from xraygan.distributed import ranks


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A process group that notes how it is made and left."""
    made: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", lambda b, timeout: made.append((b, timeout)))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: made.append((backend, timeout)))
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: made.append("destroyed"))
    monkeypatch.setattr(
        dist.distributed_c10d, "_abort_process_group", lambda: made.append("aborted")
    )
    return made


@pytest.mark.parametrize(("gpu", "left"), [(True, "aborted"), (False, "destroyed")])
def test_a_group_of_gpus_is_not_waited_for_after_an_error(
    gpu: bool, left: str, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    with pytest.raises(ranks.RankFailed), ranks.join_process_group("auto"):
        raise ranks.RankFailed("another rank ended")
    assert calls.pop() == left and left not in calls
    with ranks.join_process_group("auto"):
        pass
    assert calls[-1] == "destroyed" and "aborted" not in calls


def test_collectives_of_gpus_wait_for_minutes_and_those_of_processors_for_an_evaluation(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with ranks.join_process_group("auto"):
        assert calls == [("nccl", timedelta(minutes=10)), ("gloo", timedelta(hours=2))]


@pytest.mark.parametrize("error", [RuntimeError("wrong shape"), dist.DistBackendError("closed")])
def test_a_batch_norm_of_gpus_tells_a_lost_rank_from_other_errors(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(torch.nn.SyncBatchNorm, "forward", fail)
    lost = isinstance(error, dist.DistBackendError)
    with pytest.raises(ranks.RankFailed if lost else type(error), match=str(error)):
        ranks.FusedBatchNorm(2)(torch.zeros(3, 2))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), KeyError("other")])
def test_a_fault_of_the_device_is_not_a_lost_rank(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, ranks.detect_lost_ranks():
        raise error
    assert caught.value is error
    with pytest.raises(ranks.RankFailed, match="closed by peer"), ranks.detect_lost_ranks():
        raise RuntimeError("Connection closed by peer\nand more")

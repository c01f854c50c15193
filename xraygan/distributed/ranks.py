"""Data parallelism: R processes train one run, each with all networks and 1/R of each batch.

The loss of R ranks is the mean over ranks of what each computes. So a term that is a mean over a
rank's rows becomes the mean over the whole batch, and a term that reads gathered rows has the same
value on every rank. Gradients are averaged over the ranks before any network is updated.

Gathering is differentiable twice, because penalties on gradients need it: the derivative of "gather
all rows" is "sum over ranks, keep my rows", and the derivative of that is "gather all rows".
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from xraygan.errors import NoFault, UserError
from xraygan.utils.tensors import as_float32, flattened

Gradients = dict[str, list[Tensor | None]]

#: of a collective of the processor: while the first rank evaluates, the others wait in one
TIMEOUT = timedelta(hours=2)

#: of a collective on GPUs, which all ranks reach in the same step
GPU_TIMEOUT = timedelta(minutes=10)


#: errors that a collective passes on, but that say nothing of other ranks
_FAULTS_OF_THE_DEVICE: tuple[type[BaseException], ...] = (
    torch.OutOfMemoryError,
    getattr(torch, "AcceleratorError", torch.OutOfMemoryError),  # since PyTorch 2.8
)


class RankFailed(NoFault):
    """Another rank ended, so a collective in which this one took part cannot complete."""


@dataclass(frozen=True)
class DistributedContext:
    """The process group of a run, as this process sees it.

    Attributes:
        index: 0 for the first rank, which alone writes the run directory.
        count: R, 1 for a run of one process.
        host: the group for numbers in the CPU's memory, exchanged without waiting for GPUs.
    """

    index: int = 0
    count: int = 1
    host: Any = None

    def __deepcopy__(self, memo: Any) -> DistributedContext:
        return self  # the group cannot be copied

    @property
    def first(self) -> bool:
        return self.index == 0

    def wait(self) -> None:
        """Wait until every rank has come to this call (a barrier).

        Raises:
            RankFailed: a rank has ended.
        """
        if self.count > 1:
            with detect_lost_ranks():
                dist.barrier(group=self.host)

    def largest(self, *values: int) -> list[int]:
        """The maximum over ranks of each value.

        Raises:
            RankFailed: a rank has ended.
        """
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values)
        with detect_lost_ranks():
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.host)
        return tensor.tolist()

    def largest_tensor(self, value: Tensor) -> Tensor:
        """The maximum over ranks of each element of a tensor, on its device and in place.

        Raises:
            RankFailed: a rank has ended.
        """
        if self.count > 1:
            with detect_lost_ranks():
                dist.all_reduce(value, dist.ReduceOp.MAX)
        return value

    def average(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean over ranks of numbers that every rank has by the same names.

        Raises:
            RankFailed: a rank has ended.
        """
        if self.count == 1 or not values:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        with detect_lost_ranks():
            dist.all_reduce(total, group=self.host)
        return dict(zip(values, (total / self.count).tolist(), strict=True))

    def average_gradients(
        self, gradients: Gradients, parameters: Mapping[str, Sequence[Tensor]]
    ) -> Gradients:
        """Each gradient's mean over the ranks, by one collective; in memory it has the order of
        its parameter, as channels_last.

        A parameter that has a gradient on no rank keeps None; if it has one on some ranks, the
        others count as 0.

        Raises:
            RankFailed: a rank has ended; nothing was changed.
        """
        if self.count == 1:
            return gradients
        # All ranks must send the same tensors in the same order. So they first agree on which
        # parameters have a gradient on any rank; these are sent as one flat tensor, each in its
        # parameter's order in memory, so that none is transposed here, nor by its optimizer.
        entries = [(n, i, p) for n in sorted(gradients) for i, p in enumerate(parameters[n])]
        mine = [gradients[n][i] for n, i, _ in entries]
        reached = self.largest(*(int(gradient is not None) for gradient in mine))
        flat = [
            flattened(torch.zeros_like(p) if gradient is None else gradient, p)
            for (_, _, p), gradient, any_rank in zip(entries, mine, reached, strict=True)
            if any_rank
        ]
        averaged = {name: list(row) for name, row in gradients.items()}
        if flat:
            whole = torch.cat(flat)
            with detect_lost_ranks():
                dist.all_reduce(whole)
            parts = iter(whole.div_(self.count).split([len(part) for part in flat]))
            for (name, i, parameter), any_rank in zip(entries, reached, strict=True):
                if any_rank:
                    averaged[name][i] = next(parts).as_strided(parameter.shape, parameter.stride())
        return averaged


@contextmanager
def join_process_group(device: str) -> Iterator[DistributedContext]:
    """Within it this process is a rank of the run, if a launcher has started it as one.

    The launcher sets the environment as torchrun does: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``,
    ``MASTER_ADDR`` and ``MASTER_PORT``. GPUs communicate through NCCL, CPUs through Gloo.

    Args:
        device: ``[run] device``.

    Raises:
        UserError: there is no device for each rank.
        RankFailed: the others cannot be reached.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield DistributedContext()
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        backend = "nccl"
        if device.startswith("cuda:"):
            raise UserError(
                f'[run] device: {device} is one GPU, and there are {count} ranks; set "cuda", and '
                "choose the GPUs with CUDA_VISIBLE_DEVICES"
            )
        if local >= torch.cuda.device_count():
            raise UserError(
                f"--devices: there is no GPU for rank {local} of this machine, which has "
                f"{torch.cuda.device_count()}; start fewer ranks"
            )
        torch.cuda.set_device(local)
    with detect_lost_ranks():
        dist.init_process_group(backend, timeout=GPU_TIMEOUT if backend == "nccl" else TIMEOUT)
        host = dist.new_group(backend="gloo", timeout=TIMEOUT)
    try:
        yield DistributedContext(dist.get_rank(), count, host)
    except BaseException:
        if backend == "nccl":  # it may have work that waits for what a lost rank never sends
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


@contextmanager
def detect_lost_ranks(kind: type[RuntimeError] = RuntimeError) -> Iterator[None]:
    """Turn the error of a collective whose other ranks are gone into :class:`RankFailed`.

    Args:
        kind: the errors that mean this; ``dist.DistError`` where code runs that can fail otherwise.
    """
    try:
        yield
    except _FAULTS_OF_THE_DEVICE:
        raise
    except kind as error:
        raise RankFailed(str(error).splitlines()[0]) from error


class _Gather(torch.autograd.Function):
    """Every rank's rows, in the order of the ranks; a row's gradient is the sum over all ranks."""

    @staticmethod
    def forward(context: Any, rows: Tensor, ranks: DistributedContext) -> Tensor:  # type: ignore[override]
        context.ranks = ranks
        gathered = [torch.empty_like(rows) for _ in range(ranks.count)]
        with detect_lost_ranks():
            dist.all_gather(gathered, rows)
        return torch.cat(gathered)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Sum.apply(gradient, context.ranks), None


class _Sum(torch.autograd.Function):
    """This rank's rows of the sum over ranks: the derivative of :class:`_Gather`, which in turn is
    the derivative of this."""

    @staticmethod
    def forward(context: Any, whole: Tensor, ranks: DistributedContext) -> Tensor:  # type: ignore[override]
        context.ranks = ranks
        total = whole.clone(memory_format=torch.contiguous_format)
        with detect_lost_ranks():
            dist.all_reduce(total)
        return total.chunk(ranks.count)[ranks.index]

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Gather.apply(gradient.contiguous(), context.ranks), None


def gather(rows: Tensor, ranks: DistributedContext) -> Tensor:
    """Every rank's rows ``(R N, ...)`` of tensors ``(N, ...)``, differentiable."""
    return rows if ranks.count == 1 else _Gather.apply(rows.contiguous(), ranks)


def batch_norm_over_ranks(
    ranks: DistributedContext,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` over the rows of all ranks, on any device, differentiable twice.

    Each rank's mean and variance are gathered and combined (Chan et al., 1979); all ranks have
    equally many rows.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = as_float32(input)
    others = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(x, dim=others, correction=0)
    means, variances = gather(torch.stack([mean, var])[None], ranks).unbind(dim=1)
    mean = means.mean(dim=0)
    var = (variances + (means - mean).square()).mean(dim=0)
    if running_mean is not None and running_var is not None:
        # As PyTorch's batch norm does; the unbiased variance, of all ranks' values of a channel.
        count = ranks.count * x.numel() // len(mean)
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (count / max(count - 1, 1)), momentum)
    shape = [-1 if d == 1 else 1 for d in range(x.dim())]
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    y = (x - mean.view(shape)) * scale.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y.to(input.dtype)


class _OverRanks(TorchFunctionMode):
    """Within it ``F.batch_norm`` is :func:`batch_norm_over_ranks`."""

    def __init__(self, ranks: DistributedContext) -> None:
        super().__init__()
        self.ranks = ranks

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return batch_norm_over_ranks(self.ranks, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@functools.cache
def global_batch_norm(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """A batch norm of a kind, one with an activation for example, over the rows of all ranks."""

    class GlobalBatchNorm(kind):  # type: ignore[valid-type, misc]
        ranks: DistributedContext

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with _OverRanks(self.ranks):
                return super().forward(*args, **kwargs)

    return GlobalBatchNorm


class FusedBatchNorm(nn.SyncBatchNorm):
    """A batch norm over the rows of all ranks, of GPUs alone, not differentiable twice: PyTorch's.

    It computes what :func:`batch_norm_over_ranks` does in fewer operations. The processor waits in
    it for the GPU, which says what ranks have rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        with detect_lost_ranks(dist.DistError):
            return super().forward(input)


def synchronise_batch_norm(
    network: nn.Module, ranks: DistributedContext, *, fused: bool = False
) -> None:
    """Let every batch norm of a network see the rows of all ranks.

    Args:
        fused: the network runs on a GPU, and nothing differentiates it twice.
    """
    if ranks.count == 1:
        return
    norms: list[Any] = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        # Another class, and no other module: it keeps parameters, buffers, mode and hooks. A kind
        # of norm that computes more, as an activation, keeps its own forward pass.
        kind: Any = type(norm)
        plain = kind.forward is _BatchNorm.forward
        norm.__class__ = FusedBatchNorm if fused and plain else global_batch_norm(kind)
        norm.ranks, norm.process_group = ranks, None

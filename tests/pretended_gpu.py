"""A GPU that is not there: a step on FakeTensors of ``cuda:0``, and what it would wait for.

FakeTensors have shapes, types and devices but no numbers. So every operation of a step follows
PyTorch's own rules for a GPU, autocast included: it refuses tensors of different devices here as it
would there. :class:`Watch` sees each operation and counts, by the project's source line, those for
which the processor would wait for the GPU.

What it cannot see: numbers, speed, and what custom backward functions do. PyTorch's autograd engine
needs a driver for tensors of a GPU, so :func:`torch.autograd.grad` gives empty gradients here.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fused_kernels import fused_kernels
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from xraygan_dcgan import per_class

import xraygan

ROOT = Path(xraygan.__file__).parents[1]
GPU = torch.device("cuda", 0)
FREE = 75 << 30  # bytes of its memory

#: operations whose result has a shape that only the GPU knows
_SHAPED_BY_VALUES = {
    "aten::nonzero", "aten::masked_select", "aten::_unique", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::bincount",
}  # fmt: skip

#: operations whose gradient CUDA adds up in no fixed order (``torch.use_deterministic_algorithms``)
_NOT_REPEATABLE = {
    "aten::reflection_pad1d", "aten::reflection_pad2d", "aten::reflection_pad3d",
    "aten::_adaptive_avg_pool2d", "aten::_adaptive_avg_pool3d", "aten::adaptive_max_pool2d",
    "aten::avg_pool3d", "aten::fractional_max_pool2d", "aten::max_unpool2d",
    "aten::upsample_linear1d", "aten::upsample_bilinear2d", "aten::upsample_bicubic2d",
    "aten::_upsample_bilinear2d_aa", "aten::grid_sampler_2d", "aten::nll_loss2d_forward",
    "aten::_ctc_loss", "aten::histc", "aten::put_",
}  # fmt: skip

#: operations in place that PyTorch has no rules for on tensors without numbers
_WITHOUT_SHAPES = {"aten::_fused_adam_", "aten::_fused_adamw_", "aten::_fused_sgd_"}

#: operations that need floating arguments of one type
_OF_ONE_TYPE = {"aten::convolution", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}


class Generator(torch.Generator):
    """A generator that says it is the GPU's."""

    _where: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        made._where = torch.device(device)
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """The processor's generator was made already."""

    @property
    def device(self) -> torch.device:
        return self._where


class _WithoutGenerators(TorchFunctionMode):
    """Checks the generator that a function is given, and takes it away: fake tensors have no
    numbers, and PyTorch's dispatch to Python frees the generators that pass through it twice."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        generator = kwargs.pop("generator", None)
        made = func(*args, **kwargs)
        if generator is not None and generator.device.type != made.device.type:
            what = f"generator of {generator.device.type}, numbers on {made.device.type}"
            self._watch.wrong[source_line(), what] += 1
        return made


def source_line() -> str:
    """The innermost line of the project, or of its plugins, that runs now."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("xraygan", "plugins"):
            return f"{path.relative_to(ROOT)}:{frame.f_code.co_qualname}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"


class Watch(TorchDispatchMode):
    """Counts what a GPU would be waited for, while :attr:`on`.

    Attributes:
        waits: (source line, what) -> how often the processor would wait.
        wrong: (source line, what) -> how often an operation has arguments that a GPU refuses, or is
            slow with, though a FakeTensor accepts them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on = False
        self.waits: Counter[tuple[str, str]] = Counter()
        self.wrong: Counter[tuple[str, str]] = Counter()
        self.operations: Counter[str] = Counter()
        self._pinned: dict[
            int, Any
        ] = {}  # the storages are kept, so that no other has their number

    def note(self, what: str) -> None:
        if self.on:
            self.waits[source_line(), what] += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(t.device.type == "cuda" for t in tensors)
        if on_gpu and self.on:
            self.operations[name] += 1
        self._check_types(name, tensors)
        if name in _NOT_REPEATABLE and on_gpu and any(t.requires_grad for t in tensors):
            self.wrong[source_line(), f"the gradient of {name} is not the same in each run"] += 1
        if name == "aten::_local_scalar_dense":
            if on_gpu:
                self.note("a number is read (item, float, bool, tolist)")
            # -1: "no step was non-finite yet"; 0 would be the first step
            return 0.0 if args[0].is_floating_point() else -1
        if name == "aten::is_pinned":
            return self._is_pinned(args[0])
        if name == "aten::_pin_memory":
            made = torch.empty_like(args[0])
            self._pinned[made.untyped_storage()._cdata] = made.untyped_storage()
            return made
        if on_gpu:
            self._look_for_waits(name, func, args, kwargs)
            if name == "aten::equal":
                return True
            if name in _WITHOUT_SHAPES:
                return None
            if name == "aten::index" and _keeps_rows(*args):
                return args[0].clone()
        elif name in ("aten::_to_copy", "aten::copy_"):
            self._look_at_copy(name, args, kwargs)
        return func(*args, **kwargs)

    def _look_for_waits(self, name: str, func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        if name in _SHAPED_BY_VALUES or name == "aten::equal":
            self.note(f"the values decide the result of {name}")
        elif name in ("aten::index", "aten::index_put", "aten::index_put_"):
            for index in args[1]:
                if index is None:
                    continue
                if index.dtype in (torch.bool, torch.uint8) and name == "aten::index":
                    self.note("index by a mask")
                elif index.device.type == "cpu" and index.dim():
                    self.note("index in the processor's memory")
        elif name in ("aten::_to_copy", "aten::copy_"):
            self._look_at_copy(name, args, kwargs)

    def _look_at_copy(self, name: str, args: tuple, kwargs: dict[str, Any]) -> None:
        if name == "aten::copy_":
            target, source = args[0].device, args[1]
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        else:
            source, target = args[0], torch.device(kwargs.get("device") or args[0].device)
            waits = not kwargs.get("non_blocking", False)
        if source.device.type == target.type or not source.numel():
            return
        if source.device.type == "cuda":
            self.note("copy to the processor")
        elif not self._is_pinned(source):
            self.note("copy to the GPU from pageable memory")
        elif waits:
            self.note("blocking copy to the GPU")

    def _is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._pinned

    def _check_types(self, name: str, tensors: list[Tensor]) -> None:
        dtypes = {t.dtype for t in tensors if t.is_floating_point() and t.device.type == "cuda"}
        if name in _OF_ONE_TYPE and len(dtypes) > 1:
            what = f"{name} of {' and '.join(sorted(map(str, dtypes)))}"
            self.wrong[source_line(), what] += 1


def _keeps_rows(tensor: Tensor, indices: list[Tensor | None]) -> bool:
    """Whether rows are chosen by a mask alone, which has no numbers here: then all are kept."""
    first = indices[0]
    return len(indices) == 1 and first is not None and (first.dtype, first.dim()) == (torch.bool, 1)


def _moved(module: nn.Module, *where: Any, memory_format: Any = None, **named: Any) -> nn.Module:
    """nn.Module.to, for fake parameters, which cannot be replaced in place."""
    target = named.get("device", where[0] if where else None)
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            for key, value in kept.items():
                if value is None:
                    continue
                order = memory_format if value.dim() == 4 and memory_format else None
                like = (
                    torch.empty(value.shape, device="meta", memory_format=order) if order else value
                )
                made = torch.empty_strided(
                    value.shape, like.stride(), dtype=value.dtype, device=target or value.device
                )
                if kept is part._parameters:
                    made = nn.Parameter(made, value.requires_grad)
                kept[key] = made
    return module


def _equal_counts(watch: Watch, classes: Tensor, number: int) -> list[int]:
    """As many of each class, in place of the function that reads their numbers."""
    watch.note("a number is read (item, float, bool, tolist)")
    share, rest = divmod(len(classes), number)
    return [share + (i < rest) for i in range(number)]


def _empty_gradients(
    outputs: Any, inputs: Any, *_: Any, create_graph: bool = False, **__: Any
) -> tuple[Tensor, ...]:
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    return tuple(torch.zeros_like(i).requires_grad_(create_graph) for i in inputs)


@contextmanager
def one_gpu() -> Iterator[pytest.MonkeyPatch]:
    """Within it PyTorch says that there is one GPU, and has generators for it."""
    cuda = torch.cuda
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, value in (
            (cuda, "is_available", lambda: True),
            (cuda, "device_count", lambda: 1),
            (cuda, "current_device", lambda: 0),
            (cuda, "get_device_name", lambda *_: "a pretended GPU"),
            (cuda, "is_bf16_supported", lambda *_, **__: True),
            (cuda, "get_device_capability", lambda *_: (9, 0)),
            (cuda, "mem_get_info", lambda *_: (FREE, FREE)),
            (cuda, "manual_seed", lambda seed: None),
            (cuda, "manual_seed_all", lambda seed: None),
            (cuda, "is_current_stream_capturing", lambda: False),
            (cuda, "default_generators", (Generator(GPU),)),
            (torch, "Generator", Generator),
        ):
            patch.setattr(owner, name, value)
        yield patch


@contextmanager
def pretended_gpu() -> Iterator[Watch]:
    """Within it PyTorch has one GPU, whose tensors are fake, and every other tensor is fake too."""
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing where there is no GPU
    watch = Watch()
    with one_gpu() as patch:
        for owner, name, value in (
            (per_class, "count", partial(_equal_counts, watch)),
            (torch.autograd, "grad", _empty_gradients),
            (nn.Module, "to", _moved),
        ):
            patch.setattr(owner, name, value)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fused_kernels("Meta"), fake, watch, _WithoutGenerators(watch):
            yield watch

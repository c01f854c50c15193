"""A GPU that is not there and yet computes: the processor's numbers under a GPU's rules.

Every tensor is the processor's, and its storage is marked with the device that it stands for. So
a view is where its base is, and what runs on this GPU has the bits of what runs on the processor,
backward passes included. :class:`Rules` sees each operation and answers on which device a tensor
is. It raises what PyTorch raises where an operation reads two devices, draws from a generator of
another device, or makes a NumPy array of what is on the GPU.

What it cannot see: a GPU's own rounding and random numbers, its memory, what is waited for
(:mod:`pretended_gpu` counts that), and other threads and processes than the caller's. Of a function
that PyTorch composes of others it checks the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from pretended_gpu import GPU, one_gpu
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

CPU = torch.device("cpu")

#: what a tensor says about its device
_ANSWERS: dict[str, Callable[[torch.device], Any]] = {
    "get device": lambda where: where,
    "get is_cuda": lambda where: where.type == "cuda",
    "get is_cpu": lambda where: where.type == "cpu",
}

#: operations whose tensors may be on several devices
_OF_SEVERAL = {
    "copy_", "_foreach_copy_", "set data", "_has_compatible_shallow_copy_type", "grad", "backward",
}  # fmt: skip

#: operations that take not even a single number from the processor
_JOINING = {"cat", "concat", "stack", "hstack", "vstack"}


class Rules(TorchFunctionMode):
    """The rules of a machine with one GPU, for tensors that are all the processor's."""

    def __init__(self) -> None:
        super().__init__()
        #: where tensors are that no operation in Python made
        self.otherwise = CPU

    def where(self, tensor: Tensor) -> torch.device:
        """The device that a tensor stands for; to be called while the mode is off."""
        if tensor.device != CPU:  # the meta device
            return tensor.device
        return getattr(tensor.untyped_storage(), "stands_for", self.otherwise)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), _name(func)
        tensors = list(_tensors((args, kwargs)))
        if name == "_parse_to" or not all(map(_is_plain, tensors)):
            return func(*args, **kwargs)  # tensors of a trace have rules of their own
        if name in _ANSWERS:
            return _ANSWERS[name](self.where(args[0]))
        if name in ("to", "cpu", "cuda") or (name == "as_tensor" and isinstance(args[0], Tensor)):
            return self._sent(name, *args, **kwargs)
        where = self._place(name, args, kwargs, tensors)
        if name in ("numpy", "__array__") and where == GPU:
            raise TypeError(f"can't convert {where} device type tensor to numpy. Use Tensor.cpu() "
                            "to copy the tensor to host memory first.")  # fmt: skip
        if (word := kwargs.get("device")) is not None:
            where, kwargs["device"] = _device(word), _real(word)
        _check_generator(kwargs.get("generator"), where)
        made = args[0].clone() if name == "pin_memory" else func(*args, **kwargs)
        return self._marked(made, where)

    def _marked(self, made: Any, where: torch.device) -> Any:
        """The results of an operation, each marked if its storage is new."""
        for tensor in _tensors(made):
            if _is_plain(tensor) and tensor.device == CPU:
                storage = tensor.untyped_storage()
                if not hasattr(storage, "stands_for"):
                    storage.stands_for = where
        return made

    def _sent(self, name: str, tensor: Tensor, *given: Any, **named: Any) -> Tensor:
        """``Tensor.to`` and its kin: a copy if the tensor is on another device."""
        words = [name] if name in ("cpu", "cuda") else list(given)
        where = here = self.where(tensor)
        if words and isinstance(words[0], Tensor):
            where, words[:1] = self.where(words[0]), [CPU, words[0].dtype]
        elif words and isinstance(words[0], str | torch.device):
            where, words[0] = _device(words[0]), _real(words[0])
        elif (word := named.get("device")) is not None:
            where, named["device"] = _device(word), _real(word)
        made = tensor.to(*words, **named)
        if where != here and made.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            made = made.clone()
        return self._marked(made, where)

    def _place(
        self, name: str, args: tuple, kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> torch.device:
        """The device of an operation's arguments, where its results will be.

        Raises:
            RuntimeError: they are on two devices, and the operation does not copy.
        """
        places = {where for tensor in tensors if (where := self.where(tensor)).type != "meta"}
        if len(places) < 2:
            return next(iter(places), CPU)
        if name in _OF_SEVERAL:
            return GPU
        if name in ("__getitem__", "__setitem__"):
            return self._indexed(*args)
        changed = args[0] if _is_in_place(name) else kwargs.get("out")
        for tensor in tensors:
            is_number = tensor.dim() == 0 and name not in _JOINING and tensor is not changed
            if self.where(tensor) == CPU and not is_number:
                raise RuntimeError(
                    f"{name}: Expected all tensors to be on the same device, but found at least "
                    f"two devices, {GPU} and cpu!"
                )
        return GPU

    def _indexed(self, tensor: Tensor, index: Any, value: Any = None) -> torch.device:
        """The device of a tensor that is read or written at an index, which may be on the CPU."""
        where = self.where(tensor)
        lists = [i for i in _tensors(index) if i.dim() or i.dtype in (torch.bool, torch.uint8)]
        if any(self.where(i) not in (CPU, where) for i in lists):
            raise RuntimeError("indices should be either on cpu or on the same device as the "
                               f"indexed tensor ({where})")  # fmt: skip
        # Without an index tensor it is a copy into a view, which may come from anywhere.
        if lists and isinstance(value, Tensor) and value.dim() and self.where(value) != where:
            raise RuntimeError("Expected all tensors to be on the same device, but the values "
                               f"are on {self.where(value)} and the tensor on {where}")  # fmt: skip
        return where


def _name(func: Any) -> str:
    """What is called: ``"add_"``, or ``"get data"`` and ``"set data"`` for a property."""
    name: str = func.__name__
    if name in ("__get__", "__set__"):
        return f"{name.strip('_')} {getattr(func.__self__, '__name__', '')}"
    return name


def _is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, list | tuple):
        for one in given:
            yield from _tensors(one)
    elif isinstance(given, dict):
        yield from _tensors(list(given.values()))


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter)


def _device(word: str | torch.device) -> torch.device:
    device = torch.device(word)
    return GPU if device.type == "cuda" else device


def _real(word: str | torch.device) -> torch.device:
    device = torch.device(word)
    return CPU if device.type == "cuda" else device


def _check_generator(generator: torch.Generator | None, where: torch.device) -> None:
    if generator is not None and generator.device.type != where.type:
        raise RuntimeError(
            f"Expected a '{where.type}' device type for generator but found "
            f"'{generator.device.type}'"
        )


def _backward(
    rules: Rules, engine: Callable[..., Any], outputs: Any, *args: Any, **named: Any
) -> Any:
    """A backward pass with the rules on, for the functions in Python that it calls.

    The gradients that it gives them are made out of Python, on the device of the outputs.
    """
    on = rules in _get_current_function_mode_stack()
    before, rules.otherwise = rules.otherwise, rules.where(outputs[0])
    try:
        with nullcontext() if on else rules:
            return engine(outputs, *args, **named)
    finally:
        rules.otherwise = before


def _autocast(autocast: Any, device_type: str, *args: Any, **named: Any) -> Any:
    """The processor's autocast, in place of the GPU's."""
    return autocast("cpu" if device_type == "cuda" else device_type, *args, **named)


def _export(export: Callable[..., Any], module: nn.Module, inputs: tuple, **named: Any) -> Any:
    """``torch.export.export``, whose trace has no marks: the devices are compared before."""
    places = {t.device for t in (*module.state_dict().values(), *inputs)}
    if len(places) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {places}")
    return export(module, inputs, **named)


@contextmanager
def computing_gpu() -> Iterator[Rules]:
    """Within it PyTorch has one GPU, whose numbers the processor computes."""
    rules = Rules()
    with one_gpu() as patch:
        engine = torch.autograd._engine_run_backward
        patch.setattr(torch.autograd, "_engine_run_backward", partial(_backward, rules, engine))
        patch.setattr(torch, "autocast", partial(_autocast, torch.autocast))
        patch.setattr(torch.export, "export", partial(_export, torch.export.export))
        # Optimizers ask the driver whether a CUDA graph is being captured.
        optimizer, asks = torch.optim.Optimizer, "_accelerator_graph_capture_health_check"
        patch.setattr(optimizer, asks, lambda _: None, raising=False)
        with rules:
            yield rules

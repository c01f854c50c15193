"""How checks run: all of them, and a report of every failure at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from xraygan.errors import UserError, describe_error
from xraygan.parts import interfaces
from xraygan.parts.options import REQUIRED, check_options, options_of, takes_positional
from xraygan.parts.plugin_errors import BadAnswer, PluginFault
from xraygan.parts.registry import docstring, first_line


class CheckFailed(AssertionError):
    """A part does not meet the requirements of its kind.

    Attributes:
        failures: check -> why it failed.
    """

    def __init__(self, part: str, failures: Mapping[str, str]) -> None:
        self.failures = dict(failures)
        lines = [f"  {check}: {why}" for check, why in failures.items()]
        super().__init__("\n".join([f"{part} fails {len(failures)} of its checks:", *lines]))


class Failure(Exception):
    """Why one check failed."""


def expect(condition: bool, why: str) -> None:
    """Fail the current check if a condition is false."""
    if not condition:
        raise Failure(why)


class Blocks:
    """Blocks of checks, ``with checks("finite"): ...``, and their results.

    Args:
        part: the name of the checked part for messages.
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self.passed: list[str] = []
        self.failures: dict[str, str] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        try:
            yield
        except Failure as failure:
            self.failures.setdefault(name, str(failure))
        except PluginFault as fault:
            self.failures.setdefault(name, str(fault))
        except UserError as error:
            self.failures.setdefault(name, f"it refused: {error}")
        except BadAnswer as error:
            self.failures.setdefault(name, f"it {error}")
        except (Exception, SystemExit) as error:
            self.failures.setdefault(name, f"it raised {describe_error(error)}")
        else:
            if name not in self.passed:
                self.passed.append(name)

    def stop_if_failed(self) -> None:
        """Raise an error if a check failed so far, since the next checks need it to pass.

        Raises:
            CheckFailed: with every check that failed so far.
        """
        if self.failures:
            raise CheckFailed(self.part, self.failures)

    def end(self) -> list[str]:
        """The names of the checks if all passed.

        Raises:
            CheckFailed: with every check that failed.
        """
        self.stop_if_failed()
        return self.passed

    def expect_summary(self, part: Any, command: str) -> None:
        """Check that the part has a summary for listings."""
        with self("summary"):
            why = f"the first line of its docstring is what `{command}` shows; it is empty"
            expect(bool(first_line(docstring(part))), why)


class Checks(Blocks):
    """The checks of one part that the core builds.

    Args:
        kind: the name of its interface in :mod:`xraygan.parts.interfaces`.
        cls: the class of the part.
        options: its options, as a recipe sets them.

    Raises:
        CheckFailed: it is not of that kind, or cannot be built with these options.
    """

    def __init__(self, kind: str, cls: type, options: Mapping[str, Any]) -> None:
        super().__init__(getattr(cls, "__name__", str(cls)))
        self.cls = cls
        self.options = dict(options)
        interface = getattr(interfaces, kind)
        with self("kind"):
            expect(isinstance(cls, type) and issubclass(cls, interface), f"no subclass of {kind}")
            missing = sorted(getattr(cls, "__abstractmethods__", ()))
            expect(not missing, f"does not implement {', '.join(missing)}")
        self.stop_if_failed()
        self.expect_summary(cls, "xraygan list-plugins")
        with self("options"):
            self._check_options()
        if "options" in self.failures:
            self.stop_if_failed()

    def _check_options(self) -> None:
        for name, option in options_of(self.cls).items():
            expect(option.type is not Any, f"{name} has no type, so a recipe's value is unchecked")
            if option.default is not REQUIRED and option.default is not None:
                _, faults = check_options(self.cls, {**self.options, name: option.default})
                expect(name not in faults, f"the default of {name}: {faults.get(name)}")
        _, faults = check_options(self.cls, self.options)
        expect(not faults, "; ".join(f"{name}: {why}" for name, why in faults.items()))

    def build(self, *positional: Any, seed: int = 0) -> Any:
        """Build the part as the core does: with positional arguments only if it takes any."""
        torch.manual_seed(seed)
        arguments = positional if takes_positional(self.cls) else ()
        return self.cls(*arguments, **self.options)


def expect_finite(value: Tensor, name: str) -> None:
    """Expect that all values of a tensor are finite."""
    expect(bool(value.isfinite().all()), f"{name} is not finite")


def expect_same(a: Tensor, b: Tensor, why: str, tolerance: float = 0.0) -> None:
    """Expect equal tensors, up to ``tolerance`` times the largest magnitude of the first."""
    expect(a.shape == b.shape, f"{why} (shapes {tuple(a.shape)} and {tuple(b.shape)})")
    difference = (a.double() - b.double()).abs().max() if a.numel() else torch.zeros(())
    scale = max(float(a.double().abs().max()), 1e-6) if a.numel() else 1.0
    expect(float(difference) <= tolerance * scale, why)


def devices() -> list[torch.device]:
    """The devices on which checks run: the processor, and a GPU if there is one."""
    return [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()

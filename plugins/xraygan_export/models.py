"""The exported networks of a run, and their content in each format."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from xraygan import Classifier, UserError
from xraygan.plugin_api import Session, describe_error

EXAMPLES = 2  # images in the traced batch; torch.export would treat a batch size of 1 as constant


class Classified(nn.Module):
    """A classifier that returns its logits and probabilities, ``(N, K)`` each."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
        inputs = [images] if metadata is None else [images, metadata]
        logits = self.classifier(*inputs)["logits"]
        return logits, self.classifier.task.probabilities(logits)


@dataclass(frozen=True)
class Model:
    """A network to export.

    Attributes:
        name: ``"generator"`` or ``"classifier"``.
        network: the network on the CPU, in float32 and evaluation mode.
        traced: the module that is traced for other programs; its outputs are tensors.
        inputs: example inputs ``(EXAMPLES, ...)`` by name, in the order of its parameters.
        outputs: the names of its outputs.
    """

    name: str
    network: Any
    traced: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def models(session: Session) -> list[Model]:
    """The run's generator and classifier, if it has them."""
    task, models = session.graph.task, []
    for name in ("generator", "classifier"):
        if name not in session.graph.networks:
            continue
        network = copy.deepcopy(session.graph.trained(name)).cpu().float().eval()
        network.to(memory_format=torch.contiguous_format).requires_grad_(False)
        if name == "classifier":
            inputs = {"images": torch.zeros(EXAMPLES, 1, task.image_size, task.image_size)}
            if network.metadata:
                inputs["metadata"] = torch.zeros(EXAMPLES, 2 * len(task.metadata))
            outputs = ("logits", "probabilities")
            models.append(Model(name, network, Classified(network), inputs, outputs))
            continue
        inputs = {"z": torch.zeros(EXAMPLES, network.latent_size)}
        if network.conditional:
            inputs["labels"] = torch.zeros(EXAMPLES, task.condition_size)
        models.append(Model(name, network, network, inputs, ("images",)))
    return models


def files(model: Model, formats: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """File names and contents of a network.

    Raises:
        UserError: it cannot be traced.
    """
    if "safetensors" in formats:
        tensors = {key: value.contiguous() for key, value in model.network.state_dict().items()}
        yield f"{model.name}.safetensors", safetensors.torch.save(tensors, {"format": "pt"})
    if {"torch", "onnx"}.isdisjoint(formats):
        return
    program = trace(model)
    if "torch" in formats:
        content = io.BytesIO()
        torch.export.save(program, content)
        yield f"{model.name}.pt2", content.getvalue()
    if "onnx" in formats:
        yield f"{model.name}.onnx", as_onnx(program, model)


def trace(model: Model) -> torch.export.ExportedProgram:
    """Trace a network for batches of any size, without paths of this machine.

    Raises:
        UserError: torch.export cannot trace it, for example because its operations depend on the
            values of its inputs.
    """
    batch = torch.export.Dim("batch")
    try:
        program = torch.export.export(
            model.traced,
            tuple(model.inputs.values()),
            dynamic_shapes=tuple({0: batch} for _ in model.inputs),
        )
    except Exception as error:
        raise UserError(
            f"the {model.name} {type(model.network).__name__} cannot be written as onnx or torch: "
            f"torch.export cannot trace it ({describe_error(error)[:200]}). "
            "--format safetensors writes its weights"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # the paths of source files
    # The example inputs would be the only pickle in a .pt2 file.
    program.example_inputs = None
    return program


def as_onnx(program: torch.export.ExportedProgram, model: Model) -> bytes:
    """The content of an ONNX file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two inputs share the name of an axis
        exported: Any = torch.onnx.export(
            program,
            tuple(model.inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(model.inputs),
            output_names=list(model.outputs),
            dynamic_shapes={name: {0: "batch"} for name in model.inputs},
        )
    return exported.model_proto.SerializeToString()

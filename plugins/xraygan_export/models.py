"""What is written of a run's networks, in each format."""

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

EXAMPLES = 2  # images in the batch that is traced; one alone would be taken for a constant


class Classified(nn.Module):
    """Images to what the classifier says of them: logits and probabilities, ``(N, K)`` each."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
        given = [images] if metadata is None else [images, metadata]
        logits = self.classifier(*given)["logits"]
        return logits, self.classifier.task.probabilities(logits)


@dataclass(frozen=True)
class Model:
    """A network to be written.

    Attributes:
        name: ``"generator"`` or ``"classifier"``.
        network: on the processor, in float32 and evaluation mode.
        traced: the function of tensors that other programs get.
        inputs: examples ``(EXAMPLES, ...)`` by name, in the order of its parameters.
        outputs: names.
    """

    name: str
    network: Any
    traced: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def models(session: Session) -> list[Model]:
    """The generator and the classifier, as far as the run has them."""
    task, found = session.graph.task, []
    for name in ("generator", "classifier"):
        if name not in session.graph.networks:
            continue
        network = copy.deepcopy(session.graph.trained(name)).cpu().float().eval()
        network.to(memory_format=torch.contiguous_format).requires_grad_(False)
        if name == "classifier":
            inputs = {"images": torch.zeros(EXAMPLES, 1, task.image_size, task.image_size)}
            if network.metadata:
                inputs["metadata"] = torch.zeros(EXAMPLES, 2 * len(task.metadata))
            answers = ("logits", "probabilities")
            found.append(Model(name, network, Classified(network), inputs, answers))
            continue
        inputs = {"z": torch.zeros(EXAMPLES, network.latent_size)}
        if network.conditional:
            inputs["labels"] = torch.zeros(EXAMPLES, task.condition_size)
        found.append(Model(name, network, network, inputs, ("images",)))
    return found


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
    """A network's computation for batches of any size, without anything of this machine.

    Raises:
        UserError: which operations it computes depends on the numbers that it is given.
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
    # They would be the one part of a .pt2 file that is a pickle.
    program.example_inputs = None
    return program


def as_onnx(program: torch.export.ExportedProgram, model: Model) -> bytes:
    """The content of an ONNX file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that two inputs share the name of an axis
        made: Any = torch.onnx.export(
            program,
            tuple(model.inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(model.inputs),
            output_names=list(model.outputs),
            dynamic_shapes={name: {0: "batch"} for name in model.inputs},
        )
    return made.model_proto.SerializeToString()

"""The code in the model card that loads each file and runs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xraygan.plugin_api import Session, rebuild_options

from .models import Model

FORMATS = {
    ".onnx": "ONNX, for any runtime; here with `pip install onnxruntime`:",
    ".pt2": (
        "torch.export, for PyTorch: a zip archive of the traced computation (JSON) and of raw "
        "tensors. It contains no pickle; still, load such files only from sources that you trust:"
    ),
    ".safetensors": (
        "safetensors, only the weights, for the network's own code"
        " (`pip install xraygan` and the plugin of the network):"
    ),
}


def loading(session: Session, models: Sequence[Model], files: Sequence[str]) -> Iterator[str]:
    """A paragraph and a block of Python for each file."""
    for model in models:
        for suffix, description in FORMATS.items():
            name = f"{model.name}{suffix}"
            if name in files:
                lines = _lines(session, model, name, suffix)
                yield f"`{name}`: {description}\n\n```python\n" + "\n".join(lines) + "\n```"


def _lines(session: Session, model: Model, file: str, suffix: str) -> Iterator[str]:
    if suffix == ".onnx":
        yield from ("import numpy as np", "import onnxruntime", "")
        yield from _inputs(session, model, numpy=True)
        yield f'session = onnxruntime.InferenceSession("{file}")'
        feeds = ", ".join(f'"{name}": {name}' for name in model.inputs)
        yield f"{_output_names(model)} = session.run(None, {{{feeds}}})"
    elif suffix == ".pt2":
        yield from ("import torch", "")
        yield from _inputs(session, model, numpy=False)
        yield f'{model.name} = torch.export.load("{file}").module()'
        yield f"{', '.join(model.outputs)} = {model.name}({', '.join(model.inputs)})"
    else:
        yield from ("import torch", "from safetensors.torch import load_file", "")
        yield from ("from xraygan import Task", "from xraygan.plugin_api import installed", "")
        yield from _inputs(session, model, numpy=False)
        choice = session.recipe.choices[model.name]
        options = "".join(f", {name}={value!r}" for name, value in rebuild_options(choice).items())
        yield f"task = {session.graph.task!r}"
        yield f'part = installed().get("{model.name}", {choice.part.name!r})'
        yield f"{model.name} = part.cls(task{options}).eval()"
        yield f'{model.name}.load_state_dict(load_file("{file}"))'
        yield "with torch.inference_mode():"
        if model.name == "generator":
            yield f"    images = generator({', '.join(model.inputs)})"
        else:
            yield '    logits = classifier(images)["logits"]'
            yield "    probabilities = task.probabilities(logits)"


def _inputs(session: Session, model: Model, *, numpy: bool) -> Iterator[str]:
    """Lines that create example inputs: four latents or two images."""
    task = session.graph.task
    low, high = session.recipe.tables.data.value_range
    k, c, side = len(task.classes), task.condition_size, task.image_size
    metadata = f"; then the metadata, here unknown: {', '.join(task.metadata)}" if c > k else ""
    if model.name == "generator":
        size = model.network.latent_size
        random = "np.random.default_rng(0)" if numpy else "torch.Generator().manual_seed(0)"
        yield (
            f"z = {random}.standard_normal((4, {size})).astype(np.float32)"
            if numpy
            else f"z = torch.randn(4, {size}, generator={random})"
        )
        if "labels" in model.inputs:
            shape = f"{k}, {c}" if metadata else f"{k}"
            eye = f"np.eye({shape}, dtype=np.float32)" if numpy else f"torch.eye({shape})"
            columns = [i % k for i in range(4)]
            yield f"labels = {eye}[{columns}]  # the classes by their columns{metadata}"
        return
    zeros = "np.zeros({}, np.uint8)" if numpy else "torch.zeros({}, dtype=torch.uint8)"
    yield f"pixels = {zeros.format(f'(2, {side}, {side})')}  # put your grey radiographs here"
    floats = "pixels[:, None].astype(np.float32)" if numpy else "pixels[:, None].float()"
    yield f"images = {floats} / 255 * {high - low!r} + {low!r}"
    if "metadata" in model.inputs:
        unknown = "np.zeros({}, np.float32)" if numpy else "torch.zeros({})"
        yield f"metadata = {unknown.format((2, c - k))}  # see xraygan.data.metadata"


def _output_names(model: Model) -> str:
    """The left side of an assignment that unpacks a list of outputs."""
    return ", ".join(model.outputs) if len(model.outputs) > 1 else f"({model.outputs[0]},)"

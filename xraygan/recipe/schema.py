"""The tables of a recipe and the core's words in them.

Every other key in a table that names a plugin is an option of that plugin.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from xraygan.utils.limits import MOST, SEEDS

from .fields import Count, Factor, FolderName, Some, Table
from .optimization import Optimizer, Phase, Schedule
from .training_images import Augmentation, GeneratedImages


class Run(Table):
    """``[run]``: how long, how large, where, and how often something is kept."""

    name: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        None, description="name of the run directory; by default the recipe's file name"
    )
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] = Field(
        0, description="seed of all random numbers of the run"
    )
    steps: Some | None = Field(
        None, description="number of training steps, one batch each; set steps or epochs"
    )
    epochs: Some | None = Field(
        None, description="number of passes over the training images; set steps or epochs"
    )
    batch_size: Annotated[int, Field(ge=2, le=MOST)] = Field(
        12, description="N, images in a training step, over all GPUs together"
    )
    accumulate: Annotated[int, Field(gt=0, le=MOST)] = Field(
        1,
        description="gradient accumulation: number of equal parts that a batch is computed in, for "
        "a batch that does not fit into memory; batch norm and scores then see one part at a time",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        "auto",
        description="floating-point precision of the networks (mixed precision for bf16); auto is "
        "bf16 on a GPU that computes in it, otherwise fp32",
    )
    compile: Literal["off", "default", "graphs"] = Field(
        "off",
        description="default compiles the networks with torch.compile; graphs captures a whole "
        "training step as a CUDA graph on one GPU and replays it, which is faster for small "
        "batches and gives the same results; off does neither",
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:[0-9]{1,4})$")] = Field(
        "auto", description="device to run on: auto, cpu, cuda or cuda:INDEX"
    )
    threads: Annotated[int, Field(gt=0, le=4096)] | None = Field(
        None,
        description="CPU threads of each process; by default PyTorch chooses. Another number of "
        "threads sums in another order, so results are not bit-identical",
    )
    log_every: Some = Field(10, description="training steps between lines of the log")
    save_every: Count = Field(
        1000, description="training steps between checkpoints; 0 saves only the last"
    )
    keep: Count = Field(2, description="number of newest checkpoints to keep; 0 keeps all")
    sample_every: Count = Field(
        500, description="training steps between sample grids; 0 draws only the last"
    )
    evaluate_every: Count = Field(
        0,
        description="training steps between evaluations during training, on the validation images "
        "if there are any, otherwise on the test images; 0 evaluates only at the end",
    )
    keep_best: str | None = Field(
        None,
        description="metric that selects the best checkpoint, which is kept in addition; measured "
        "on the validation images; needs evaluate_every, and a validation list or data.validation",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description="what to do if a loss term or gradient is NaN or infinite: stop, or skip the "
        "training step (skip synchronises with the device in every step)",
    )

    def total(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        return self.steps or (self.epochs or 0) * steps_per_epoch

    @model_validator(mode="after")
    def _one_length(self) -> Run:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set one of steps and epochs")
        if self.keep_best is not None and not self.evaluate_every:
            raise ValueError("keep_best needs evaluate_every")
        return self


class Part(BaseModel):
    """A table that names a plugin; keys that are not the core's are the plugin's options."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    plugin: str = Field(description="name of the plugin; xraygan list-plugins lists them")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are not the core's words."""
        return dict(self.model_extra or {})


class Data(Part):
    """``[data]``: the dataset, which of its images, and how a batch is drawn from them."""

    root: FolderName | None = Field(
        None, description="folder of the data, relative to the working directory"
    )
    classes: Literal["all"] | Annotated[list[str], Field(min_length=1)] = Field(
        "all", description="the classes, in order; all takes those of the dataset"
    )
    only: list[str] = Field([], description="use only the images of these classes; empty for all")
    label_policy: Literal["single", "multi"] = Field(
        "single",
        description="single trains on images with exactly one finding (softmax); multi trains "
        "on images with any number of findings (sigmoids)",
    )
    metadata: list[Literal["age", "sex", "view"]] = Field(
        [], description="metadata that conditional networks get in addition to the labels"
    )
    image_size: Annotated[int, Field(ge=16, le=1024)] = Field(
        128, description="S, height and width of the images in pixels"
    )
    sampling: Literal["natural", "balanced", "inverse"] = Field(
        "natural",
        description="how batches are sampled: natural (as the data are), balanced (each class "
        "equally often) or inverse (in inverse proportion to the class count)",
    )
    value_range: tuple[float, float] = Field(
        (-1.0, 1.0), description="values of black and white in the tensors of real images"
    )
    augmentation: Augmentation | None = Field(
        None, description="random crops and flips of the training images"
    )
    generated: GeneratedImages | None = Field(
        None,
        description="generated images that the classifier learns from, in a recipe without "
        "generator",
    )
    limit: Count | dict[str, Count] | None = Field(
        None,
        description="number of training images of each class, as one number or as a table by "
        "class; taken patient by patient, in random order",
    )
    unlabelled: bool = Field(
        False,
        description="give the training images beyond the limit to plugins, without their labels",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of the training patients to hold out as validation images, for choices "
        "such as keep_best, if the dataset has no validation images of its own",
    )
    on_bad_image: Literal["stop", "skip"] = Field(
        "stop", description="what to do if an image cannot be read: stop, or skip it"
    )
    grey: Literal["full", "image"] | tuple[float, float] = Field(
        "full",
        description="grey values that become black and white: full (the whole range of the file's "
        "bits; for DICOM its VOI LUT or window), image (each image's own range without outliers) "
        "or [low, high]",
    )
    cache: FolderName | None = Field(
        None, description="folder of the image stores; by default the user's cache folder"
    )

    @field_validator("classes", "only", "metadata", mode="before")
    @classmethod
    def _lists(cls, value: Any, info: ValidationInfo) -> Any:
        """Say once what a list is: the union with "all" would be at fault twice."""
        if isinstance(value, str) and (info.field_name, value) != ("classes", "all"):
            raise ValueError('expected a list of names in quotes, such as ["Effusion", "Edema"]')
        return value

    @model_validator(mode="after")
    def _ranges(self) -> Data:
        for name, most in (("value_range", 1e6), ("grey", 1e12)):
            ends = getattr(self, name)
            if isinstance(ends, tuple) and not -most <= ends[0] < ends[1] - 1e-6 < most:
                raise ValueError(
                    f"{name} must be [low, high] with low < high, from {-most:.0f} to {most:.0f}"
                )
        return self


class Network(Part):
    """``[generator]``, ``[discriminator]``, ``[classifier]``."""

    weight: Annotated[float, Field(ge=0, le=1e30)] = Field(
        1.0, description="weight of the network's own loss"
    )
    optimizer: Optimizer = Field(Optimizer(), description="optimizer of the network")
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="decay of the exponential moving average (EMA) of the weights; samples and "
        "evaluations then use the average; 0 for none",
    )


class Objective(Part):
    """``[objective]``: the adversarial losses."""


class Augmenter(Part):
    """``[augmenter]``: what the discriminator sees of images."""


class Labeler(Part):
    """``[labeler]``: labels of generated images for the classifier to learn from."""

    weight: Annotated[float, Field(ge=0, le=1e30)] = Field(
        1.0, description="weight of the loss on generated images"
    )
    trains: Annotated[list[str], Field(min_length=1)] = Field(
        ["classifier"], description="networks that learn from the pseudo-labels"
    )


class Score(Part):
    """``[scores.NAME]``: a regularization term."""

    weight: Factor = Field(
        1.0, description="weight of the term; a negative weight maximizes it, 0 leaves it out"
    )
    trains: list[str] | None = Field(
        None,
        description="networks that learn from the term; an empty list only logs it; by default the "
        "score decides",
    )
    optimizer: Optimizer = Field(
        Optimizer(), description="optimizer of the networks that the score brings, if any"
    )


class Named(Part):
    """``[extractors.NAME]``, ``[metrics.NAME]``, ``[trackers.NAME]``."""


class Evaluation(Table):
    """``[evaluation]``: what the metrics are measured on."""

    protocol: Literal["official", "paper", "multilabel14"] = Field(
        "official",
        description="which test images are measured: official (the dataset's test list), paper "
        "(those of the list with exactly one finding, one of the recipe's classes) or multilabel14 "
        "(the test list with all 14 findings, as in CheXNet); the same for validation images",
    )
    split: Literal["test", "val"] = Field(
        "test",
        description="images of the final evaluation: test, or val for a run that serves to choose "
        "something, such as a hyperparameter",
    )
    generated: Annotated[int, Field(ge=2, le=MOST)] = Field(
        1000, description="number of images to generate for the metrics"
    )
    reference: Literal["train", "held_out"] = Field(
        "train",
        description="real images that generated images are compared with: train, or held_out for "
        "the measured images, which no network has seen; conditional generators get their labels",
    )
    bootstrap: Annotated[int, Field(ge=0, le=MOST)] = Field(
        1000, description="bootstrap resamples per confidence interval"
    )
    batch_size: Annotated[int, Field(gt=0, le=MOST)] = Field(
        64, description="batch size of the evaluation, images in a forward pass"
    )


class Start(Table):
    """``[start]``: the run whose networks this one starts from, instead of random weights."""

    run: FolderName = Field(
        description="directory of the other run, relative to the working directory"
    )
    checkpoint: str = Field(
        "latest", description="checkpoint of the other run: latest, best or a step"
    )
    networks: list[str] | None = Field(
        None, description="networks to take; by default all that this recipe has too"
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None,
        description="SHA-256 of the checkpoint's manifest.json; the run fills it in and refuses to "
        "start from other files",
    )


class RecipeConfig(Table):
    """A whole recipe."""

    run: Run
    data: Data
    start: Start | None = None
    generator: Network | None = None
    discriminator: Network | None = None
    classifier: Network | None = None
    objective: Objective | None = None
    augmenter: Augmenter | None = None
    labeler: Labeler | None = None
    schedule: Schedule = Schedule()
    scores: dict[str, Score] = Field({})
    extractors: dict[str, Named] = Field({})
    metrics: dict[str, Named] = Field({})
    trackers: dict[str, Named] = Field({})
    evaluation: Evaluation = Evaluation()

    def parts(self) -> dict[str, tuple[str, Part]]:
        """Every table that names a plugin: dotted table name -> (kind, table)."""
        found: dict[str, tuple[str, Part]] = {"data": ("dataset", self.data)}
        for kind in SINGLE:
            if (part := getattr(self, kind)) is not None:
                found[kind] = (kind, part)
        for group in GROUPS:
            for name, part in getattr(self, group).items():
                found[f"{group}.{name}"] = (group.removesuffix("s"), part)
        return found


#: Tables that name one part of their kind.
SINGLE = ("generator", "discriminator", "classifier", "objective", "augmenter", "labeler")

#: Tables of tables, whose keys name the plugin unless ``plugin`` does.
GROUPS = ("scores", "extractors", "metrics", "trackers")

__all__ = [
    "GROUPS",
    "Data",
    "Optimizer",
    "Part",
    "Phase",
    "RecipeConfig",
    "Run",
    "Schedule",
    "Score",
    "Start",
]

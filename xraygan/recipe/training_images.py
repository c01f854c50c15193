"""The tables below ``[data]``: how training images are varied, and which others join them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .fields import FolderName, Fraction, Table


class Augmentation(Table):
    """``[data.augmentation]``: random resized crops and mirror images of the training images."""

    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="range of the crop's area, as a share of the image's"
    )
    ratio: tuple[float, float] = Field(
        (1.0, 1.0), description="range of the crop's aspect ratio, width over height"
    )
    flip: Fraction = Field(0.0, description="probability of a horizontal flip")
    shared: bool = Field(False, description="use one crop for the whole batch")

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0.001 <= low <= high <= 1000:
                raise ValueError(f"{name} must be [low, high] with 0.001 <= low <= high <= 1000")
        return self


class GeneratedImages(Table):
    """``[data.generated]``: images of any generator that the classifier learns from."""

    table: FolderName = Field(
        description="CSV table of the images, relative to the working directory, such as the "
        "generated.csv of xraygan generate: columns path and label"
    )
    root: FolderName | None = Field(
        None, description="folder that the paths are relative to; by default the table's folder"
    )
    separator: Annotated[str, Field(min_length=1)] = Field(
        "|", description="text between several labels of an image"
    )
    ratio: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="number of generated images for each real training image"
    )
    use: Literal["beside", "before", "instead"] = Field(
        "beside",
        description="beside draws batches from real and generated images together; before trains "
        "on generated images alone, then on real images alone; instead uses no real image",
    )
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="with before: share of the training steps on generated images"
    )

    @property
    def learned_from(self) -> str:
        """The kinds of images from whose labels the classifier learns."""
        kinds = {
            "beside": "real and generated",
            "before": "generated, then real",
            "instead": "generated",
        }
        return kinds[self.use]

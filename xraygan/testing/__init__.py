"""Checks that the author of a plugin runs against a part, as scikit-learn's ``check_estimator``.

One function a kind: ``check_score(MyScore)``, ``check_generator(MyGenerator, width=8)``. Each
builds the part with the given options, tries it on small random networks and images (no data, no
weights, seconds on a processor), and raises :class:`CheckFailed` with everything that is wrong:
which check, and why. They need no test framework; in pytest a call is a test::

    from xraygan.testing import check_score

    def test_energy():
        check_score(Energy)

Passing says that a part keeps the promises of its kind, not that its mathematics is right: for
that, compare it with a loop in float64 that follows the equation.
"""

from .checks import CheckFailed
from .commands import check_command
from .networks import check_classifier, check_discriminator, check_extractor, check_generator
from .runs import check_dataset, check_metric, check_tracker
from .terms import check_augmenter, check_labeler, check_objective, check_score

__all__ = [
    "CheckFailed",
    "check_augmenter",
    "check_classifier",
    "check_command",
    "check_dataset",
    "check_discriminator",
    "check_extractor",
    "check_generator",
    "check_labeler",
    "check_metric",
    "check_objective",
    "check_score",
    "check_tracker",
]

"""Checks that the author of a plugin runs on a part, like scikit-learn's ``check_estimator``.

One function for each kind: ``check_score(MyScore)``, ``check_generator(MyGenerator, width=8)``. It
builds the part with the given options, tries it on small random networks and images (without data
or weights, in seconds on a processor), and raises :class:`CheckFailed` with every check that failed
and why. The checks need no test framework; in pytest a call is a test::

    from xraygan.testing import check_score

    def test_energy():
        check_score(Energy)

A part that passes meets the requirements of its kind, but its mathematics may still be wrong: to
check that, compare it with a loop in float64 that follows the equation.
"""

from xraygan.testing.checks import CheckFailed
from xraygan.testing.commands import check_command
from xraygan.testing.networks import (
    check_classifier,
    check_discriminator,
    check_extractor,
    check_generator,
)
from xraygan.testing.runs import check_dataset, check_metric, check_tracker
from xraygan.testing.terms import check_augmenter, check_labeler, check_objective, check_score

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

"""Upper limits of numbers in recipes and options; a larger number is a typing error.

It is refused before memory or time is spent on it.
"""

from __future__ import annotations

import re

#: steps of a run, or of an interval
MOST_STEPS = 10**12 - 1
#: images of a batch, images to generate, resamples of an interval
MOST = 1_000_000
#: seeds are below this, as integers of 64 bits
SEEDS = 2**63
#: processes that train one run, or parallel runs of a sweep
MOST_PROCESSES = 1024
#: runs of a sweep
MOST_RUNS = 10_000
#: parameters of a network; with gradients and the two moments of Adam they take 32 GB
MOST_PARAMETERS = 2_000_000_000


def parse_step(text: str) -> int | None:
    """The step that a text names; None for other text and for numbers with too many digits."""
    match = re.fullmatch(r"0*([0-9]{1,12})", text, re.ASCII)
    return int(match[1]) if match else None

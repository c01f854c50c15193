"""What numbers of recipes and options may be at most: anything beyond is a slip of the keyboard.

They are refused before memory is taken or time is spent for them.
"""

from __future__ import annotations

import re

#: steps of a run, or between two things that it does
MOST_STEPS = 10**12 - 1
#: images of a batch, images that are generated at once, resamples of an interval
MOST = 1_000_000
#: the end of seeds, which are integers of 64 bits
SEEDS = 2**63
#: processes of this machine that train one run, or runs of a sweep at a time
MOST_PROCESSES = 1024
#: runs of a sweep
MOST_RUNS = 10_000
#: parameters of a network; with gradients and the two moments of Adam they take 32 GB
MOST_PARAMETERS = 2_000_000_000


def step_of(text: str) -> int | None:
    """The step that a text names, None if it is none: ``latest``, or more digits than any has."""
    found = re.fullmatch(r"0*([0-9]{1,12})", text, re.ASCII)
    return int(found[1]) if found else None

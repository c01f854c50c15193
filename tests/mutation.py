"""Mutation testing of the modules that figures and runs depend on most, by hand: it takes hours.

    pip install mutmut==3.8.1
    python tests/mutation.py intervals             # a room; all where none is named
    python tests/mutation.py trainer --sample 200  # some of its mutants, drawn with a seed
    python tests/mutation.py trainer --again       # those that survived, after new tests
    python tests/mutation.py --table               # what has been measured, by file

mutmut changes one thing in a function (a number, an operator, a key, an argument) and runs the
tests that reach the function: a mutant that no test minds has *survived*. Each room has the tests
that know it best and are quick. The work is done in copies of the repository, ``build/mutation/
ROOM``, of which nothing is kept; a second call goes on where the first one ended, and starts again
where a room's tests are others. docs/reliability.md has the figures, tests/mutation_survivors.md
the survivors, each with the reason why it may live.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutation"
COPIED = ("xraygan", "plugins", "recipes", "docs", "examples", "benchmarks", "tests")
FILES = ("README.md", "CHANGELOG.md", "mkdocs.yml", "pyproject.toml")
#: as mutmut records how the tests ended; any other code is a mutant that they killed
LIVES, NO_TESTS, TIMEOUTS = 0, 33, (-24, 24, 36, 152, 255)


@dataclass(frozen=True)
class Room:
    """Files, and the tests that know them best; ``k`` leaves out those that are slow or blunt."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    k: str = ""


#: what asks nothing of a trained run
QUICK_AUDIT = tuple(
    f"tests/audit/test_audit.py::test_{name}"
    for name in (
        "the_nearest_are_those_of_a_loop",
        "nothing_but_its_own_group_is_infinitely_far",
        "generated_images_have_the_greys_that_the_discriminator_sees",
        "a_relative_distance_is_that_of_a_loop",
        "chance_counts_the_orders_in_which_so_many_are_flagged",
        "the_threshold_is_a_low_rank",
        "an_image_as_near_as_the_threshold_is_not_flagged",
        "auc_is_that_of_a_double_loop",
        "the_p_of_swapped_pairs_is_that_of_all_swaps",
        "an_interval_is_of_resamples_of_each_sample",
        "planted_copies_are_flagged_and_fresh_images_are_not",
        "too_few_images_to_tell_are_said_to_be",
    )
)

ROOMS = {
    "intervals": Room(
        ("xraygan/statistics/intervals.py",), ("tests/statistics/test_intervals.py",), "not cover"
    ),
    "seed_variance": Room(
        ("xraygan/statistics/seed_variance.py",),
        ("tests/statistics/test_seed_variance.py",),
        "not simulation and not 5_of_100 and not covers and not p_is_the_level",
    ),
    "paired_bootstrap": Room(
        ("xraygan/statistics/paired_bootstrap.py",), ("tests/statistics/test_paired.py",)
    ),
    "audit": Room(
        ("xraygan/audit/audit.py", "xraygan/audit/held_out.py"),
        ("tests/audit/test_audit_parts.py",),
    ),
    "memorization": Room(
        ("xraygan/audit/memorization.py",), ("tests/audit/test_audit_parts.py", *QUICK_AUDIT)
    ),
    "nearest_neighbors": Room(
        ("xraygan/audit/nearest_neighbors.py",),
        ("tests/audit/test_audit_parts.py", *QUICK_AUDIT),
        "thumbnails or patterns or features or nearest or far or greys or panels or white",
    ),
    "verdict": Room(("xraygan/audit/verdict.py",), ("tests/audit/test_audit_parts.py",)),
    "scores": Room(
        ("plugins/xraygan_scores/distributions.py", "plugins/xraygan_scores/style.py"),
        ("tests/plugins/test_style.py", "tests/plugins/test_equations.py"),
    ),
    "distances": Room(
        (
            "plugins/xraygan_distances/energy.py",
            "plugins/xraygan_distances/kernels.py",
            "plugins/xraygan_distances/samples.py",
            "plugins/xraygan_distances/transport.py",
        ),
        ("tests/plugins/test_distances.py",),
        "not iterations and not large_batch",
    ),
    "checkpoint": Room(("xraygan/rundir/checkpoint.py",), ("tests/rundir/test_checkpoint.py",)),
    "trainer": Room(("xraygan/training/trainer.py",), ("tests/training/test_loop_parts.py",)),
    "schema": Room(
        ("xraygan/recipe/schema.py", "xraygan/recipe/optimization.py"),
        ("tests/recipe/test_schema.py",),
    ),
    "step": Room(("xraygan/graph/step.py",), ("tests/graph/test_step.py",)),
    "graph": Room(
        ("xraygan/graph/graph.py", "xraygan/graph/parameters.py"),
        ("tests/graph/test_graph_parts.py",),
    ),
}


def prepare(name: str) -> Path:
    """A copy of the repository, set up for the mutants of a room."""
    room, place = ROOMS[name], WORK / name
    # Python does not look again into a folder of its path that was not there at first.
    (place / "mutants" / "plugins").mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in COPIED:
        shutil.copytree(ROOT / folder, place / folder, dirs_exist_ok=True, ignore=ignore)
    for file in FILES:
        shutil.copy2(ROOT / file, place / file)
    # A plugin is found by its module's name: it lies beside the package, before plugins/.
    files = [file.removeprefix("plugins/") for file in room.files]
    sources = sorted({file.split("/")[0] for file in files})
    for source in sources:
        if source != "xraygan":
            shutil.copytree(
                ROOT / "plugins" / source, place / source, dirs_exist_ok=True, ignore=ignore
            )
    # Without the first each call ends with two passes over all objects, which take most of the
    # time; what PyTorch imports late is imported once, and not for each mutant; without the last,
    # which is emptied at each call, thousands of folders would be left.
    quick = ["-p", "no:unraisableexception", "-p", "no:cacheprovider", "-p", "torch._inductor"]
    quick += ["--basetemp=../made"]
    words = ["-m", "not slow", "-q", *quick, *(["-k", room.k] if room.k else [])]
    settings = {
        "source_paths": [f"{source}/" for source in sources],
        "only_mutate": files,
        "also_copy": [*COPIED, *FILES] if "xraygan" not in sources else [*COPIED[1:], *FILES],
        "pytest_add_cli_args_test_selection": list(room.tests),
        "pytest_add_cli_args": words,
        "process_isolation": "forkserver",  # torch is not to be forked once it has threads
        "use_setproctitle": False,
    }
    with (place / "pyproject.toml").open("a") as out:
        out.write("\n[tool.mutmut]\n")
        out.writelines(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    return place


def names(place: Path) -> dict[str, int | None]:
    """The mutants of a room, and how the tests of each ended."""
    found: dict[str, int | None] = {}
    for path in sorted((place / "mutants").rglob("*.meta")):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


def mutmut(place: Path, *words: str) -> None:
    paths = [str(place / "mutants"), str(place / "mutants" / "plugins")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    tool = str(Path(sys.executable).with_name("mutmut"))
    subprocess.run([tool, *words], cwd=place, env=environment, check=True)


def measure(name: str, sample: int | None, seed: int, again: bool) -> None:
    place = prepare(name)
    if again:
        lived = [one for one, code in names(place).items() if code in (LIVES, NO_TESTS)]
        return mutmut(place, "run", "--max-children", "1", *lived) if lived else None
    if sample is None:
        return mutmut(place, "run", "--max-children", "1")
    if not names(place):
        some = "nothing of that name"  # mutmut makes the mutants, and then finds none to run
        subprocess.run(
            [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", "1", some],
            cwd=place,
            check=False,
            capture_output=True,
        )
    drawn = random.Random(seed).sample(sorted(names(place)), sample)
    left = [one for one in drawn if names(place)[one] is None]
    return mutmut(place, "run", "--max-children", "1", *left)


def table() -> None:
    """The mutants of each file, and what became of those that were run."""
    rows = []
    for name in ROOMS:
        files: dict[str, Counter[str]] = {}
        for mutant, code in names(WORK / name).items():
            file = mutant.split(".x_")[0].split(".xǁ")[0]
            ended = (
                "not run" if code is None
                else "survived" if code in (LIVES, NO_TESTS)
                else "timeout" if code in TIMEOUTS
                else "killed"
            )  # fmt: skip
            files.setdefault(file, Counter())[ended] += 1
        rows += files.items()
    rows.append(("all", sum((found for _, found in rows), Counter())))
    print("| module | mutants | run | killed | timeout | survived | killed of run |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for file, found in rows:
        run = found.total() - found["not run"]
        dead = found["killed"] + found["timeout"]
        print(
            f"| {file} | {found.total()} | {run} | {found['killed']} | {found['timeout']} "
            f"| {found['survived']} | {dead / max(run, 1):.1%} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="*", help=", ".join(ROOMS))
    parser.add_argument("--sample", type=int)
    parser.add_argument("--again", action="store_true", help="only those that survived")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    for room in [] if asked.table else asked.rooms or ROOMS:
        measure(room, asked.sample, asked.seed, asked.again)
    table()

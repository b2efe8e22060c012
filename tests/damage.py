"""Damage films in every transfer syntax and read them: each must give an image or an ImageError, soon.

python tests/damage.py --cases 600 --seed 7

A case that does otherwise, or takes over two seconds, ends this with its number and a traceback; a crash
of a codec ends it too. The number, the film and the seed make the case again.
"""

import argparse
import json
import random
import time
import warnings
from collections import Counter

from dicoms import damaged, one_of_each
from pneumoscope.contract import InputRule
from pneumoscope.errors import ImageError
from pneumoscope.imaging import load_input

MOST_SECONDS = 2.0


def main() -> None:
    """Parse the arguments, run the cases, print how many were read and how many refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    films = list(one_of_each().items())
    outcomes: Counter[str] = Counter()
    for case in range(arguments.cases):
        syntax, data = films[case % len(films)]
        outcomes[_outcome(damaged(data, random.Random(f"{arguments.seed} {case}")), f"case {case}, {syntax}")] += 1
    print(json.dumps(outcomes))


def _outcome(data: bytes, case: str) -> str:
    began = time.perf_counter()
    try:
        load_input(data, InputRule.squash(64))
        outcome = "read"
    except ImageError:
        outcome = "refused"
    except BaseException as other:
        other.add_note(case)
        raise
    if time.perf_counter() - began > MOST_SECONDS:
        raise TimeoutError(f"{case} took more than {MOST_SECONDS} seconds")
    return outcome


if __name__ == "__main__":
    main()

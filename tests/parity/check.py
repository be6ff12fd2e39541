"""Compare our code with golden sets: ``python tests/parity/check.py DIR [DIR ...]``.

One line a directory: name, largest error, its tolerance, ok or FAIL, of the tensor that is nearest to its
tolerance; where entries are counted, the number that differs. Exit code 1: something failed. 2: a directory
is no golden set, or one that nothing here runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2]))  # last: an installed package goes first

import torch

from parity.comparison import Result, compare, failure
from parity.golden_set import GoldenSet, NotAGoldenSetError, Recorded
from parity.subjects import RUNNERS, runner


def check(golden: GoldenSet) -> list[Result]:
    """A result for every recorded output that a correct implementation must reproduce."""
    try:
        recorded = {(entry.file, entry.name): entry for entry in golden.recorded()}
        idle = golden.idle_rules()
        results: dict[str, Result] = {}
        for output in runner(golden.name)(golden):
            entry = recorded.get((output.file, output.name))
            if entry is not None and entry.rule is not None:
                result = compare(entry.label, entry.rule, _plain(output.value), _reference(golden, entry))
                former = results.setdefault(entry.label, result)
                results[entry.label] = max(former, result, key=lambda one: one.severity)
    except Exception as error:
        return [failure(golden.name, f"{type(error).__name__}: {_first_line(error)}")]
    missing = [entry for entry in recorded.values() if entry.label not in results and not _optional(entry)]
    return [
        *results.values(),
        *(
            failure(entry.label, "not produced" if entry.rule else "no entry of meta.json describes it")
            for entry in missing
        ),
        *(failure(pattern, "recorded in no file") for pattern in idle),
    ] or [failure(golden.name, "nothing to compare")]


def _optional(entry: Recorded) -> bool:
    """Outputs of released code that couples the clouds of a batch are for those who emulate it."""
    return entry.rule is not None and entry.rule.get("applies_to") == "released"


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _reference(golden: GoldenSet, entry: Recorded) -> Any:
    return golden.stored[entry.file][entry.name] if entry.name else golden.content(entry.file)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def line(name: str, result: Result) -> str:
    """The columns of the report, and the reason where there is no number to explain a failure."""
    columns = f"{name:<32}  {_number(result.error):>9}  {_number(result.tolerance):>9}  "
    return columns + ("ok" if result.ok else f"FAIL  {result.label}: {result.note}".removesuffix(": "))


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2e}"


def main(argv: Sequence[str] | None = None) -> int:
    """Check the directories of a command line, print the report, and return the exit code."""
    parser = argparse.ArgumentParser(description="Compare our code with golden sets.")
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="a golden set")
    parser.add_argument("--verbose", action="store_true", help="also print a line for every tensor")
    arguments = parser.parse_args(argv)
    failed = unknown = False
    for folder in arguments.directories:
        try:
            golden = GoldenSet(folder)
        except NotAGoldenSetError as error:
            print(error, file=sys.stderr)
            unknown = True
            continue
        if golden.name not in RUNNERS:
            print(
                f"{folder}: no model for the set {golden.name}; there is one for {', '.join(RUNNERS)}", file=sys.stderr
            )
            unknown = True
            continue
        results = check(golden)
        worst = max(results, key=lambda result: result.severity)
        print(line(golden.name, worst), flush=True)
        if arguments.verbose:
            for result in results:
                print(line(f"  {result.label}", result), flush=True)
        failed |= not worst.ok
    return 1 if failed else 2 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())

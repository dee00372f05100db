"""``python -m bench.papers``: the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.papers import MODULES

__all__ = ["experiments", "main"]

LIBRARIES = {"torch": "torch", "tqdm": "tqdm", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}


def experiments() -> dict[str, Any]:
    """All of them by name, in the order of MODULES."""
    found = [each for module in MODULES for each in import_module(f"bench.papers.{module}").EXPERIMENTS]
    return {experiment.name: experiment for experiment in found}


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m bench.papers",
        description="The papers' experiments again, on real data. Without a name: the table of experiments.",
    )
    result.add_argument("name", nargs="?", help="the experiment")
    result.add_argument("--data", type=Path, metavar="DIR", help="folder of the data (default: PYSTN_DATA)")
    result.add_argument("--digits", action="store_true", help="scikit-learn's digits in the place of MNIST")
    result.add_argument(
        "--quick", action="store_true", help="a few steps, to see that it runs: thresholds mean nothing"
    )
    result.add_argument("--seeds", type=positive, metavar="N", help="seeds 0 to N - 1 (default: 3, with --quick 1)")
    result.add_argument("--first-seed", type=int, default=0, metavar="N", help="where seeds begin (default: 0)")
    result.add_argument("--only", action="append", metavar="MODEL", help="this model; may be given again")
    result.add_argument(
        "--threads", type=positive, metavar="N", help="threads of PyTorch and of pystn (default: theirs)"
    )
    result.add_argument(
        "--set", action="append", type=setting, default=[], metavar="NAME=VALUE", help="change a setting"
    )
    result.add_argument(
        "--out",
        type=Path,
        default=Path("papers-results"),
        metavar="DIR",
        help="where results go (default: papers-results/)",
    )
    return result


def listing() -> None:
    for experiment in experiments().values():
        print(f"{experiment.name}: {experiment.shows}")
        print(f"    threshold  {experiment.threshold}")
        print(f"    models     {', '.join(experiment.models)}")
        print(f"    needs      {', '.join(experiment.needs) or 'nothing'}")
        for label in ("settings", "quick", "digits"):
            print(f"    {label:<9}  " + " ".join(f"{k}={v}" for k, v in getattr(experiment, label).items()))


def chosen_models(experiment: Any, only: Sequence[str] | None) -> tuple[str, ...]:
    unknown = set(only or ()) - set(experiment.models)
    if unknown:
        parser().error(f"{experiment.name} has no model {sorted(unknown)[0]!r}; it has {', '.join(experiment.models)}")
    return tuple(model for model in experiment.models if not only or model in only)


def chosen_settings(experiment: Any, given: argparse.Namespace) -> dict[str, Any]:
    changes = dict(given.set)
    unknown = changes.keys() - experiment.settings.keys()
    if unknown:
        parser().error(f"{experiment.name} has no setting {sorted(unknown)[0]!r}; see the table")
    settings = {**experiment.settings, **(experiment.digits if given.digits else {})}
    return {**settings, **(experiment.quick if given.quick else {}), **changes}


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    given = parser().parse_args(arguments)
    missing = [LIBRARIES[name] for name in LIBRARIES if find_spec(name) is None]
    if missing:
        print(f"bench.papers needs {', '.join(missing)}: pip install pystn[papers]", file=sys.stderr)
        return 2
    if given.name is None:
        listing()
        return 0
    table = experiments()
    if given.name not in table:
        parser().error(f"there is no experiment {given.name!r}; there are {', '.join(table)}")
    experiment = table[given.name]
    models, settings = chosen_models(experiment, given.only), chosen_settings(experiment, given)

    import torch

    import pystn
    from bench.papers import report
    from bench.papers.data import Data, MissingDataError
    from bench.papers.experiment import Context

    data = Data(given.data, given.digits)
    try:
        data.check(experiment.needs)
    except MissingDataError as error:
        print(error, file=sys.stderr)
        return 2
    if given.threads:
        torch.set_num_threads(given.threads)
        pystn.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    seeds = range(given.first_seed, given.first_seed + (given.seeds or (1 if given.quick else 3)))
    result = experiment.run(Context(SimpleNamespace(**settings), data, models, seeds, given.out))
    report.write_json(given.out / f"{experiment.name}.json", experiment, settings, result, arguments)
    report.draw(given.out / f"{experiment.name}.png", experiment, result)
    if given.quick or given.digits:
        print("Not the full experiment: thresholds are shown, and mean nothing.")
    print("\n".join(report.table(experiment, result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

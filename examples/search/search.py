"""A search for a classifier's hyper-parameters, every fold of every candidate an electron of its own.

python examples/search/search.py --executor slurm --plot search.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn has no types
from sklearn.model_selection import StratifiedKFold, train_test_split  # type: ignore[import-untyped]  # likewise
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]  # likewise
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]  # likewise
from sklearn.svm import SVC  # type: ignore[import-untyped]  # likewise

import hpcflow as hf

COSTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
GAMMAS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
FOLDS = 5
#: Of the images; no candidate sees them before one is chosen.
HELD_OUT = 0.25


@dataclass(frozen=True)
class Candidate:
    """A support vector machine with Gaussian kernels: what an error costs, and how narrow the kernels are."""

    cost: float
    gamma: float


@dataclass(frozen=True)
class Score:
    candidate: Candidate
    #: Share of the fold's images that were told right.
    accuracy: float
    support_vectors: int


@dataclass(frozen=True)
class Trial:
    """One candidate over all folds."""

    candidate: Candidate
    accuracy: float
    #: Standard error of the mean.
    error: float
    support_vectors: float


@dataclass(frozen=True)
class Outcome:
    """What the search found, and what the best one tells of images that it never saw."""

    trials: tuple[Trial, ...]
    best: Trial
    held_out_accuracy: float
    held_out_images: int


# ---- electrons


@hf.electron(cpus=1, memory="1 GB", walltime="1 min", retries=1)
def score(candidate: Candidate, fold: int, folds: int) -> Score:
    """Train on all folds but one, and count what is told right in that one."""
    images, digits, _, _ = split()
    parts = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(images, digits))
    training, testing = parts[fold]
    model = machine(candidate)
    model.fit(images[training], digits[training])
    return Score(candidate, float(model.score(images[testing], digits[testing])), int(model[-1].n_support_.sum()))


@hf.electron(cpus=1, memory="1 GB", walltime="1 min")
def rank(scores: Sequence[Score]) -> tuple[Trial, ...]:
    """The candidates, the best one first; of equally good ones the simplest."""
    by_candidate: dict[Candidate, list[Score]] = {}
    for each in scores:
        by_candidate.setdefault(each.candidate, []).append(each)
    trials = []
    for candidate, folds in by_candidate.items():
        accuracies = np.array([each.accuracy for each in folds])
        trials.append(
            Trial(
                candidate,
                float(accuracies.mean()),
                float(accuracies.std(ddof=1) / np.sqrt(len(folds))),
                float(np.mean([each.support_vectors for each in folds])),
            )
        )
    return tuple(sorted(trials, key=lambda trial: (-trial.accuracy, trial.support_vectors)))


@hf.electron(cpus=1, memory="1 GB", walltime="1 min", retries=1)
def confirm(trials: Sequence[Trial]) -> Outcome:
    """Train the best candidate on all training images, and try it on those held out."""
    images, digits, unseen, answers = split()
    best = trials[0]
    model = machine(best.candidate)
    model.fit(images, digits)
    return Outcome(tuple(trials), best, float(model.score(unseen, answers)), len(answers))


def search(costs: Sequence[float], gammas: Sequence[float], folds: int) -> Outcome:
    """The lattice: every fold of every candidate, the ranking, and one honest look at the winner."""
    candidates = [Candidate(cost, gamma) for cost in costs for gamma in gammas]
    return confirm(rank([score(candidate, fold, folds) for candidate in candidates for fold in range(folds)]))


# ---- what they share


def split() -> Any:  # Any: four arrays, of which scikit-learn says no types
    """Images and digits to train with, then those held out: 1,797 of 8 x 8 pixels come with scikit-learn."""
    images, digits = load_digits(return_X_y=True)
    parts: Any = train_test_split(images, digits, test_size=HELD_OUT, stratify=digits, random_state=0)
    training, unseen, right, answers = parts
    return training, right, unseen, answers


def machine(candidate: Candidate) -> Any:  # Any: as above
    parameters: dict[str, Any] = {"C": candidate.cost, "gamma": candidate.gamma}
    return make_pipeline(StandardScaler(), SVC(**parameters))


# ---- what is shown


def as_text(outcome: Outcome) -> str:
    """The table for a terminal: mean accuracy in per cent, a line for each cost and a column for each gamma."""
    by_candidate = {trial.candidate: trial for trial in outcome.trials}
    costs = sorted({candidate.cost for candidate in by_candidate})
    gammas = sorted({candidate.gamma for candidate in by_candidate})
    lines = ["C \\ gamma " + "".join(f"{gamma:>9g}" for gamma in gammas)]
    for cost in costs:
        cells = []
        for gamma in gammas:
            trial = by_candidate[Candidate(cost, gamma)]
            cells.append(f"{100 * trial.accuracy:8.1f}{'*' if trial is outcome.best else ' '}")
        lines.append(f"{cost:9g} " + "".join(cells))
    return "\n".join(lines)


def answer(outcome: Outcome) -> str:
    best = outcome.best
    return (
        f"best: C={best.candidate.cost:g}, gamma={best.candidate.gamma:g}: {100 * best.accuracy:.1f} ± "
        f"{100 * best.error:.1f} % in cross-validation, {100 * outcome.held_out_accuracy:.1f} % of "
        f"{outcome.held_out_images} images held out"
    )


def draw(outcome: Outcome, path: Path) -> None:
    """Write a figure: a map of the accuracy, and each candidate's accuracy over what it remembers."""
    # Electrons never draw, so compute nodes need no matplotlib.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    by_candidate = {trial.candidate: trial for trial in outcome.trials}
    costs = sorted({candidate.cost for candidate in by_candidate})
    gammas = sorted({candidate.gamma for candidate in by_candidate})
    errors = [[100 * (1 - by_candidate[Candidate(cost, gamma)].accuracy) for gamma in gammas] for cost in costs]
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        chart, scatter = figure.subplots(1, 2)
        chart.imshow(errors, cmap="viridis_r", norm="log", origin="lower", aspect="auto")
        for row, line in enumerate(errors):
            for column, error in enumerate(line):
                chart.text(
                    column, row, f"{error:.1f}", ha="center", va="center", color="white" if error > 5 else "black"
                )
        best = outcome.best.candidate
        at = gammas.index(best.gamma), costs.index(best.cost)
        chart.plot(*at, marker="s", ms=30, mfc="none", mec="#d1603d", mew=2)
        chart.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas])
        chart.set_yticks(range(len(costs)), [f"{cost:g}" for cost in costs])
        chart.set_xlabel("gamma")
        chart.set_ylabel("C")
        chart.set_title("told wrong in cross-validation (%)", loc="left")
        wrong = [100 * (1 - trial.accuracy) for trial in outcome.trials]
        spread = [100 * trial.error for trial in outcome.trials]
        remembered = [trial.support_vectors for trial in outcome.trials]
        scatter.errorbar(remembered, wrong, spread, ls="", marker="o", ms=4, color="#0b6e99", elinewidth=0.8)
        scatter.plot(remembered[0], wrong[0], marker="s", ms=11, mfc="none", mec="#d1603d", mew=2)
        scatter.set_yscale("log")
        scatter.set_xlabel("images kept as support vectors")
        scatter.set_title("told wrong (%) over what is remembered", loc="left")
        figure.suptitle(answer(outcome), fontweight="bold")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--executor", help="a cluster's name, such as slurm or local; default: the server's choice")
    options.add_argument("--plot", type=Path, help="write the figure to this file (png, pdf or svg)")
    options.add_argument("--costs", type=float, nargs="+", default=COSTS)
    options.add_argument("--gammas", type=float, nargs="+", default=GAMMAS)
    options.add_argument("--folds", type=int, default=FOLDS)
    chosen = options.parse_args()
    if chosen.folds < 2 or min(*chosen.costs, *chosen.gammas) <= 0:
        options.error("--folds must be 2 or more, and each cost and gamma above 0")

    workflow = hf.lattice(executor=chosen.executor)(search)
    result = hf.dispatch_sync(workflow)(sorted(set(chosen.costs)), sorted(set(chosen.gammas)), chosen.folds)
    if result.status != "COMPLETED":
        raise SystemExit(result.error)

    outcome: Outcome = result.result
    print(as_text(outcome))
    if chosen.plot is not None:
        draw(outcome, chosen.plot)
        print(f"Plot: {chosen.plot}")
    print(answer(outcome))


if __name__ == "__main__":
    main()

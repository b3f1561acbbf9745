"""The search example: its scores as plain Python, and the example from beginning to end."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
from examples.search import search
from examples.search.search import Candidate, Score
from tests.integration.servers import run, stopped_afterwards

PROGRAM = Path(search.__file__)
SMALL = ("--costs", "0.1", "10", "--gammas", "0.003", "0.1", "--folds", "3")


def test_a_fold_of_a_good_candidate_is_told_right_and_one_of_a_bad_one_is_not() -> None:
    assert search.score(Candidate(10.0, 0.003), 0, 5).accuracy > 0.95
    assert search.score(Candidate(0.1, 0.1), 0, 5).accuracy < 0.6


def test_folds_are_different_images_and_the_same_in_each_task() -> None:
    first, again, other = (search.score(Candidate(1.0, 0.001), fold, 5) for fold in (0, 0, 1))
    assert first == again
    assert (first.accuracy, first.support_vectors) != (other.accuracy, other.support_vectors)


def test_images_held_out_are_not_among_those_to_train_with() -> None:
    images, digits, unseen, answers = search.split()
    assert (len(images), len(unseen)) == (len(digits), len(answers)) == (1347, 450)
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in unseen}


def test_the_best_candidate_comes_first_and_of_equals_the_one_that_remembers_less() -> None:
    heavy, light, poor = Candidate(1.0, 0.1), Candidate(1.0, 0.01), Candidate(1.0, 1.0)
    scores = [Score(heavy, 0.9, 90), Score(light, 0.88, 40), Score(poor, 0.5, 9)]
    scores += [Score(heavy, 0.94, 110), Score(light, 0.96, 60), Score(poor, 0.7, 9)]
    trials = search.rank(scores)
    assert [trial.candidate for trial in trials] == [light, heavy, poor]
    assert trials[1].support_vectors == 100
    assert trials[1].accuracy == pytest.approx(0.92)
    assert trials[1].error == pytest.approx(0.02)


def test_as_plain_python_the_search_finds_the_best_of_its_candidates() -> None:
    outcome = search.search((0.1, 10.0), (0.003, 0.1), 3)
    assert outcome.best.candidate == Candidate(10.0, 0.003)
    assert outcome.best.accuracy == max(trial.accuracy for trial in outcome.trials) > 0.96
    assert outcome.held_out_accuracy > 0.96
    lines = search.as_text(outcome).splitlines()
    assert [line.split()[0] for line in lines] == ["C", "0.1", "10"]
    assert lines[2].count("*") == 1


@pytest.mark.parametrize("options", [("--folds", "1"), ("--costs", "0"), ("--gammas", "-1")])
def test_parameters_that_make_no_sense_are_refused_in_a_sentence(options: tuple[str, ...], tmp_path: Path) -> None:
    done = run(sys.executable, str(PROGRAM), *options, cwd=tmp_path)
    assert done.returncode == 2
    assert "--folds must be 2 or more, and each cost and gamma above 0" in done.stderr


def assert_it_finds_a_good_candidate(executor: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "new folder" / "search.png"
    done = run(sys.executable, str(PROGRAM), "--executor", executor, "--plot", str(plot), *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    said = re.fullmatch(
        r"best: C=10, gamma=0\.003: (\S+) ± \S+ % in cross-validation, (\S+) % of 450 images held out", last
    )
    assert said is not None, done.stdout
    assert min(map(float, said.groups())) > 96
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.slow
def test_the_example_finds_a_good_candidate_on_this_machine(hpcflow_home: Path, tmp_path: Path) -> None:
    with stopped_afterwards(tmp_path):
        assert_it_finds_a_good_candidate("local", tmp_path)


@pytest.mark.slow
@pytest.mark.cluster
def test_the_example_finds_a_good_candidate_on_slurm(hpcflow_home: Path, tmp_path: Path) -> None:
    with stopped_afterwards(tmp_path):
        assert_it_finds_a_good_candidate("slurm", tmp_path)

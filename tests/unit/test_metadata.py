"""Annotations of electrons and lattices read and changed by name, as Covalent's programs do it."""

from __future__ import annotations

from datetime import timedelta

import pytest

import hpcflow as hf


@hf.electron
def shared(x: int) -> int:
    return x


def test_what_is_read_can_be_written_again() -> None:
    first = shared.with_options(executor="slurm", memory="8 GiB", walltime="90 min", cpus=4)
    second = shared.with_options()
    for name in ("executor", "memory", "walltime", "cpus", "qos"):
        second.set_metadata(name, first.get_metadata(name))
    assert second.annotations == first.annotations
    assert first.get_metadata("memory") == "8192 MiB"
    assert first.get_metadata("walltime") == timedelta(minutes=90)
    assert first.get_metadata("qos") is None


def test_a_changed_electron_asks_for_something_else_from_the_next_call_on() -> None:
    task = shared.with_options(executor="local")

    @hf.lattice
    def flow() -> list[int]:
        before = task(1)
        task.electron_object.set_metadata("executor", "slurm")
        return [before, task(2)]

    assert [each.executor for each in flow.build_graph().graph.tasks] == ["local", "slurm"]
    task.set_metadata("executor", None)
    assert task.get_metadata("executor") is None


def test_a_lattice_hands_down_what_was_set_later() -> None:
    @hf.lattice(executor="local", cpus=2)
    def flow() -> int:
        return shared(1)

    flow.set_metadata("executor", "slurm")
    flow.set_metadata("max_failures", 3)
    (task,) = flow.build_graph().graph.tasks
    assert (task.executor, task.resources.cpus) == ("slurm", 2)
    assert flow.get_metadata("max_failures") == 3


def test_an_unknown_name_and_an_impossible_value_are_refused_in_a_sentence() -> None:
    task = shared.with_options()
    with pytest.raises(hf.UserError, match=r"The electron 'shared' has an unknown annotation 'exekutor'; did you mean"):
        task.set_metadata("exekutor", "slurm")
    with pytest.raises(hf.UserError, match="The electron 'shared': memory='8 G'"):
        task.set_metadata("memory", "8 G")
    with pytest.raises(hf.UserError, match="unknown annotation 'cpu'"):
        task.get_metadata("cpu")
    assert task.annotations == shared.annotations

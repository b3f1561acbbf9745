"""Electrons and lattices, from decorating to the upload's manifest."""

# a lattice is a function that calls electrons, however short
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcflow as hf
from hpcflow.core.model import Resources, Task, UserError
from hpcflow.sdk.body import CallEach, Surroundings
from hpcflow.sdk.manifest import manifest
from hpcflow.sdk.workflow import Electron, PlaceholderError, dumps, load_with
from tests.unit.run_traced import built, run
from tests.unit.served import a_shape


@hf.electron
def give(value: Any) -> Any:
    return value


@hf.electron
def add(x: int, y: int = 10) -> int:
    return x + y


@hf.electron
def total(*numbers: int, **named: int) -> int:
    return sum(numbers) + sum(named.values())


@dataclasses.dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


class Thing:
    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and self.inside == other.inside

    def __hash__(self) -> int:
        return hash(self.inside)


# ---- calls


def test_outside_a_lattice_an_electron_is_a_plain_function() -> None:
    assert add(1, y=2) == 3
    assert (add.__name__, add.__doc__, add.__wrapped__) == ("add", None, add.function)  # type: ignore[attr-defined]  # functools.update_wrapper


def test_a_lattice_called_directly_runs_as_plain_python() -> None:
    @hf.lattice
    def workflow(n: int) -> int:
        return sum(add(i, 0) for i in range(n) if add(i, 0) % 2)

    assert workflow(6) == 1 + 3 + 5


def test_each_call_becomes_a_task_that_depends_on_its_arguments() -> None:
    @hf.lattice
    def workflow() -> Any:
        a = give(1)
        b = add(a, a)
        return total(a, b, 5, named=b)

    graph = workflow.build_graph().graph
    assert [(task.name, task.deps) for task in graph.tasks] == [("give", ()), ("add", (0,)), ("total", (0, 1))]
    assert graph.output_deps == (2,)
    assert graph.name == "workflow"


def test_a_lattice_traced_and_run_gives_what_it_gives_as_plain_python() -> None:
    @hf.lattice
    def workflow(n: int, *, scale: int = 2) -> Any:
        parts = [add(i) for i in range(n)]
        return {"sum": total(*parts, last=parts[-1]), "scaled": parts[0] * scale, "n": n}

    assert run(workflow.build_graph(4, scale=3)) == workflow(4, scale=3) == {"sum": 59, "scaled": 30, "n": 4}


def test_arguments_by_position_name_default_and_variadic_all_hold_results() -> None:
    @hf.lattice
    def workflow() -> Any:
        one = give(1)

        @hf.electron
        def inner(a: Any, b: Any = one, *rest: Any, c: Any = (one, {"deep": one}), **more: Any) -> Any:
            return a, b, rest, c, more

        return inner(one), inner(one, 2, one, d=[one])

    assert run(workflow.build_graph()) == (
        (1, 1, (), (1, {"deep": 1}), {}),
        (1, 2, (1,), (1, {"deep": 1}), {"d": [1]}),
    )


def test_lambdas_closures_partials_and_builtins_can_be_electrons() -> None:
    @hf.lattice
    def workflow(step: int) -> Any:
        return [
            hf.electron(lambda x: x + step)(1),
            hf.electron(functools.partial(operator.mul, 2))(5),
            hf.electron(len)([1, 2, 3]),
        ]

    traced = workflow.build_graph(4)
    assert run(traced) == [5, 10, 3]
    assert [task.name for task in traced.graph.tasks] == ["lambda", "mul", "len"]


def test_electrons_call_other_electrons_and_themselves_inside_a_task() -> None:
    @hf.electron
    def countdown(n: int) -> list[int]:
        return [n, *countdown(n - 1)] if n else [add(0, 0)]

    assert run(hf.lattice(lambda: countdown(3)).build_graph()) == [3, 2, 1, 0]


def test_a_lattice_marked_as_an_electron_is_one_task_whose_graph_is_built_from_values() -> None:
    @hf.lattice
    def inner(n: int) -> int:
        return sum(add(i, 0) for i in range(n))

    traced = hf.lattice(lambda: hf.electron(inner)(add(2, 2))).build_graph()
    assert [(task.name, task.deps, task.sublattice) for task in traced.graph.tasks] == [
        ("add", (), False),
        ("inner", (0,), True),
    ]
    assert run(traced) == 6


def test_a_sublattice_hands_down_what_is_written_around_it_and_is_built_with_less() -> None:
    @hf.electron(cpus=2)
    def solve() -> int:
        return 1

    @hf.electron(memory="2 GiB", accept_failed=True)
    @hf.lattice(walltime="5 min")
    def inner() -> list[int]:
        return [solve(), add.with_options(executor="local")(1, 1)]

    traced = hf.lattice(executor="slurm", gpus=1, nodes=2, partition="gpu", retries=3)(lambda: inner()).build_graph()
    (building,) = traced.graph.tasks
    solving, adding = built(traced, 0).graph.tasks

    assert (building.executor, building.accept_failed, building.retries.times) == ("slurm", True, 3)
    assert building.resources == Resources(memory_mib=2048, walltime_s=300, partition="gpu")
    asked = Resources(gpus=1, nodes=2, ntasks=2, memory_mib=2048, walltime_s=300)
    assert solving.resources == dataclasses.replace(asked, cpus=2, partition="gpu")
    assert (solving.executor, solving.accept_failed, solving.retries.times) == ("slurm", False, 3)
    assert (adding.executor, adding.resources) == ("local", asked)


def test_a_sublattice_called_outside_a_lattice_is_plain_python() -> None:
    @hf.electron
    @hf.lattice
    def inner(n: int) -> int:
        return sum(add(i, 0) for i in range(n))

    assert inner(4) == 6


def test_a_single_electron_can_be_a_lattice() -> None:
    @hf.lattice
    @hf.electron(cpus=2)
    def alone(x: int) -> int:
        return x + 1

    traced = alone.build_graph(1)
    assert [(task.name, task.resources.cpus) for task in traced.graph.tasks] == [("alone", 2)]
    assert (run(traced), alone(1)) == (2, 2)


def test_wrong_arguments_of_an_electron_are_refused_where_it_is_called() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        hf.lattice(lambda: add()).build_graph()  # type: ignore[call-arg]  # the mistake is the point
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        hf.lattice(lambda: add(1, z=2)).build_graph()  # type: ignore[call-arg]  # the mistake is the point


def test_an_argument_is_sent_as_it_was_when_the_electron_was_called() -> None:
    @hf.lattice
    def workflow() -> Any:
        growing: list[int] = []
        seen = []
        for number in range(3):
            growing.append(number)
            seen.append(give(growing))
        return seen

    assert run(workflow.build_graph()) == [[0], [0, 1], [0, 1, 2]]


def test_two_threads_trace_without_meeting() -> None:
    inside = threading.Barrier(2, timeout=60)

    @hf.lattice
    def workflow(n: int) -> Any:
        first = give(n)
        inside.wait()
        return add(first, n)

    counts: dict[int, int] = {}

    def trace(n: int) -> None:
        counts[n] = run(workflow.build_graph(n))

    threads = [threading.Thread(target=trace, args=(n,), daemon=True) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counts == {1: 2, 2: 4}


def test_a_failing_lattice_leaves_no_trace_behind() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hf.lattice(fail).build_graph()
    assert add(1, 2) == 3


# ---- nesting

LEAVES = st.integers(min_value=0, max_value=9)
NESTED = st.recursive(
    LEAVES | st.text(max_size=2) | st.none() | LEAVES.map(lambda n: ("electron", n)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(lambda xs: ("tuple", xs))
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.frozensets(LEAVES, max_size=3).map(lambda xs: ("set", sorted(xs)))
        | st.tuples(inner, inner).map(lambda pair: ("pair", *pair))
        | inner.map(lambda one: ("thing", one))
    ),
    max_leaves=15,
)


def made_of(spec: Any) -> Any:
    """Return the structure that a spec means, with a call of `give` at each electron."""
    match spec:
        case ("electron", number):
            return give(number)
        case ("tuple", items):
            return tuple(made_of(item) for item in items)
        case ("set", numbers):
            return {give(number) for number in numbers}
        case ("pair", left, right):
            return Pair(made_of(left), made_of(right))
        case ("thing", inside):
            return Thing(made_of(inside))
        case list():
            return [made_of(item) for item in spec]
        case dict():
            return {key: made_of(value) for key, value in spec.items()}
        case _:
            return spec


@settings(deadline=None)
@given(NESTED)
def test_results_arrive_wherever_they_lie_in_a_structure(spec: Any) -> None:
    @hf.lattice
    def workflow() -> Any:
        give(0)
        return made_of(spec), give(made_of(spec))

    expected = made_of(spec)
    assert run(workflow.build_graph()) == (expected, expected)


def test_tuples_stay_tuples_and_sets_stay_sets() -> None:
    sent = run(hf.lattice(lambda: give((give(1), {give(2)}, [give(3)]))).build_graph())
    assert sent == (1, {2}, [3])
    assert [type(sent), type(sent[1]), type(sent[2])] == [tuple, set, list]


def test_a_result_shared_by_two_places_is_one_object_there() -> None:
    @hf.electron
    def same(a: Any, b: Any) -> bool:
        return a is b

    def workflow() -> Any:
        shared = give([1])
        return same(shared, shared)

    assert run(hf.lattice(workflow).build_graph()) is True


def test_classes_of_every_kind_are_values() -> None:
    kinds = [int, type(None), type(...), type(tasks_of), type({}.keys()), Pair, dataclasses.Field, Electron]
    assert run(hf.lattice(lambda: give([kinds, give(1)])).build_graph()) == [kinds, 1]


def test_the_definition_of_a_class_is_pickled_once_for_all_arguments() -> None:
    class Counted(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "__bases__":
                looked.append(1)
            return super().__getattribute__(name)

    class Local(metaclass=Counted):
        pass

    looked: list[int] = []
    traced = hf.lattice(lambda: [give((Local(), number)) for number in range(100)]).build_graph()
    assert len(traced.graph.tasks) == 100
    assert len(looked) < 10


def test_an_electron_with_many_options_is_sent_once() -> None:
    inner = hf.lattice(walltime="1 h")(lambda n: add(n))

    @hf.lattice
    def workflow() -> Any:
        return [add.with_options(cpus=n)(0) for n in range(1, 4)], [inner(n) for n in range(3)]

    traced = workflow.build_graph()
    assert {task.fn for task in traced.graph.tasks} == {0}
    assert [task.resources.cpus for task in traced.graph.tasks] == [1, 2, 3, 1, 1, 1]
    assert run(traced) == ([10, 10, 10], [10, 11, 12])


# ---- order


def tasks_of(workflow: Any) -> tuple[Task, ...]:
    return hf.lattice(workflow).build_graph().graph.tasks


def test_wait_orders_two_tasks_without_passing_a_value() -> None:
    def workflow() -> Any:
        first, second = give(1), give(2)
        return hf.wait(give(3), [first, (second,)])

    assert [(task.deps, task.after) for task in tasks_of(workflow)] == [((), ()), ((), ()), ((), (0, 1))]


def test_wait_on_an_argument_adds_nothing() -> None:
    def workflow() -> Any:
        first = give(1)
        return hf.wait(child=give(first), parents=first)

    assert [(task.deps, task.after) for task in tasks_of(workflow)] == [((), ()), ((0,), ())]


def test_wait_may_name_a_later_task_as_parent() -> None:
    def workflow() -> Any:
        first, second = give(1), give(2)
        hf.wait(first, second)
        return first

    assert [task.after for task in tasks_of(workflow)] == [(1,), ()]


def test_wait_outside_a_lattice_gives_the_child_back() -> None:
    assert hf.wait(3, [1, 2]) == 3


def test_a_circle_of_waits_is_refused_and_spelt_out() -> None:
    def workflow() -> Any:
        first = give(1)
        second = add(first)
        hf.wait(first, second)
        return second

    with pytest.raises(UserError) as refused:
        hf.lattice(workflow).build_graph()
    assert str(refused.value) == (
        "In the lattice 'workflow' wait() closes a circle: "
        "give (call 0) waits for add (call 1) waits for give (call 0)."
    )


def test_wait_for_something_that_is_no_call_is_refused() -> None:
    with pytest.raises(UserError, match="wait\\(\\) takes the result of an electron's call as its child"):
        tasks_of(lambda: hf.wait([], give(1)))
    with pytest.raises(UserError, match="wait\\(\\) takes results of electrons' calls, not a value of type 'int'"):
        tasks_of(lambda: hf.wait(give(1), 7))


# ---- mistakes


def test_a_lattice_with_nothing_to_run_is_refused() -> None:
    with pytest.raises(UserError, match="The lattice 'lambda' calls no electron, so there is nothing to run"):
        hf.lattice(lambda: 1).build_graph()


def test_an_argument_that_cannot_be_pickled_is_refused_by_electron_parameter_and_reason() -> None:
    @hf.lattice
    def workflow() -> Any:
        return add(1, y=threading.Lock())  # type: ignore[arg-type]  # the mistake is the point

    with pytest.raises(UserError) as refused:
        workflow.build_graph()
    assert str(refused.value) == (
        "The electron 'add' can't take a value of type 'lock' as its argument 'y': cannot pickle '_thread.lock' object."
    )
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


def test_an_electron_that_uses_something_unpicklable_is_refused_by_its_name() -> None:
    lock = threading.Lock()
    with pytest.raises(UserError, match=r"electron 'lambda' can't be sent because of 'lock', which it uses: cannot"):
        hf.lattice(lambda: hf.electron(lambda: lock)()).build_graph()


def test_a_return_value_that_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(UserError, match=r"lattice 'lambda' can't return a value of type 'list': cannot pickle"):
        hf.lattice(lambda: [give(1), threading.Lock()]).build_graph()


def test_a_result_captured_by_an_electron_is_refused_with_advice() -> None:
    def workflow() -> Any:
        outer = give(1)
        return hf.electron(lambda x: x + outer)(1)

    with pytest.raises(UserError) as refused:
        hf.lattice(workflow).build_graph()
    assert str(refused.value) == (
        "The electron 'lambda' uses the result of electron 'give' from outside its own arguments "
        "(a closure or a global name): pass it as an argument."
    )


def test_a_result_kept_from_an_earlier_lattice_is_refused() -> None:
    kept: list[Any] = []
    hf.lattice(lambda: kept.append(give(1))).build_graph()
    with pytest.raises(
        UserError, match="as its argument 'value': it holds a result of electron 'give' from another call of a lattice"
    ):
        hf.lattice(lambda: give(kept[0])).build_graph()


class Holder:
    def method(self) -> int:
        return 1

    @staticmethod
    def static() -> int:
        return 1


@pytest.mark.parametrize("method", [Holder.method, Holder().method])
def test_a_lattice_is_no_method(method: Any) -> None:
    with pytest.raises(UserError, match="is a method, and only plain functions can be marked"):
        hf.lattice(method)


@pytest.mark.parametrize("method", [staticmethod(len), classmethod(type), property(len)])
def test_a_marked_descriptor_is_refused_with_advice(method: Any) -> None:
    name = type(method).__name__
    for mark in (hf.electron, hf.lattice):
        with pytest.raises(UserError, match=f"write @{name} above @{mark.__name__}, not below it"):
            mark(method)


async def coroutine() -> None: ...


async def async_generator() -> Any:
    yield 1


def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("mark", "function", "problem"),
    [
        (hf.lattice, coroutine, "is async"),
        (hf.lattice, async_generator, "is async"),
        (hf.lattice, generator, "yields"),
        (hf.electron, 3, "marks functions, not a value of type 'int'"),
        (hf.electron, add, "is marked already"),
    ],
)
def test_what_cannot_run_as_one_call_is_refused(mark: Any, function: Any, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        mark(function)


class Scaled:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @hf.electron
    def times(self, value: int) -> int:
        return self.factor * value

    @staticmethod
    @hf.electron
    def half(value: int) -> float:
        return value / 2

    def plain(self, value: int) -> int:
        return self.factor + value

    def __call__(self, value: int) -> int:
        return self.factor - value


def test_methods_classes_and_callables_are_electrons_and_plain_calls_elsewhere() -> None:
    scaled = Scaled(3)
    marked: list[Callable[..., Any]] = [
        hf.electron(scaled.plain),
        hf.electron(scaled),
        hf.electron(Scaled),
        hf.electron(functools.partial(pow, 2)),
    ]

    def flow() -> Any:
        return scaled.times(2), Scaled.half(2), [mark(2) for mark in marked]

    assert (scaled.times(2), Scaled.half(2), Scaled.times(scaled, 4)) == (6, 1.0, 12)
    graph = hf.lattice(flow).build_graph().graph
    assert [task.name for task in graph.tasks] == ["times", "half", "plain", "Scaled", "Scaled", "pow"]
    times, half, (plain, called, made, power) = run(hf.lattice(flow).build_graph())
    assert (times, half, plain, called, made.factor, power) == (6, 1.0, 5, 1, 2, 4)


def test_coroutines_are_awaited_inside_of_what_is_around_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def slow(value: int) -> tuple[int, str]:
        print("awaited")
        return value + 1, os.getcwd()

    monkeypatch.chdir(tmp_path)
    around = Surroundings(folder=str(tmp_path / "own"), shared=True, after=("echo after",))
    assert around.call(slow, [1], {}) == (2, str(tmp_path / "own"))
    assert capfd.readouterr().out == "awaited\nafter\n"
    assert [value for value, _ in cast("list[Any]", CallEach(slow)([(1,), (2,)]))] == [2, 3]


def test_an_object_whose_pickling_fails_in_its_own_code_is_refused_by_reason() -> None:
    class Stubborn:
        def __reduce__(self) -> str:
            raise RuntimeError("not today")

    with pytest.raises(UserError, match="as its argument 'value': not today"):
        hf.lattice(lambda: give(Stubborn())).build_graph()


# ---- electrons that nobody called


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [give(1), f], lambda f: {"a": (give(1), f)}, lambda f: {f}])
def test_an_electron_that_is_returned_uncalled_is_refused(wrap: Any) -> None:
    with pytest.raises(UserError) as refused:
        hf.lattice(lambda: wrap(add)).build_graph()
    assert str(refused.value) == (
        "The lattice 'lambda' returns <electron add> itself, not its result: call it, as in add(...)."
    )


@pytest.mark.parametrize(
    "call", [lambda: give(give), lambda: give(value=give), lambda: give([[1], {"a": give}]), lambda: give((1, give))]
)
def test_an_electron_that_is_passed_on_uncalled_is_refused(call: Any) -> None:
    with pytest.raises(UserError, match=r"is given <electron give> itself and not its result: call it, as in give\("):
        hf.lattice(call).build_graph()


def test_a_lattice_is_no_argument_either() -> None:
    inner = hf.lattice(add.function)
    with pytest.raises(
        UserError, match=r"is given <lattice add> itself .* hand over the function, write add\.function"
    ):
        hf.lattice(lambda: give(inner)).build_graph()


def test_a_function_can_be_handed_over_and_a_workflow_may_be_given_its_electrons() -> None:
    def apply(step: Any, value: int) -> Any:
        return step(value, value)

    part = hf.electron(hf.lattice(apply))

    @hf.lattice
    def workflow() -> Any:
        return [hf.electron(apply)(add.function, 2), part(add, 3), part.with_options(cpus=2)(add, 4), apply(add, 5)]

    assert run(workflow.build_graph()) == [4, 6, 8, 10]


def test_a_container_in_itself_is_looked_through_once_and_for_all() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    hf.lattice(lambda: give(endless)).build_graph()


# ---- what is uploaded


def test_a_manifest_lists_each_function_shape_and_equal_arguments_once() -> None:
    @hf.lattice(executor="slurm")
    def workflow() -> Any:
        large = add.with_options(memory="1 GiB", extra=["--nice"])
        hardy = add.with_options(retries=hf.Retries(1, exceptions=[OSError]), accept_failed=True, on_cancelled="retry")
        return [add(1), add(1), add(2), large(1), hardy(1)]

    head, blobs = manifest(workflow.build_graph())
    wanted = json.loads(json.dumps(head))
    assert wanted["shapes"] == [
        a_shape(executor="slurm"),
        a_shape(executor="slurm", resources={"memory_mib": 1024, "extra": ["--nice"]}),
        a_shape(
            executor="slurm",
            retries={"times": 1, "memory": 2.0, "walltime": 2.0, "exceptions": ["OSError"]},
            accept_failed=True,
            on_cancelled="retry",
        ),
    ]
    assert wanted["tasks"] == [
        ["add", 0, 1, 0, 0, 0],
        ["add", 0, 1, 0, 0, 0],
        ["add", 0, 2, 0, 0, 0],
        ["add", 0, 1, 1, 0, 0],
        ["add", 0, 1, 2, 0, 0],
    ]
    assert wanted["needs"] == [[]]
    assert (wanted["v"], wanted["name"], wanted["output"]) == (2, "workflow", 3)
    assert wanted["python"] == list(sys.version_info[:2])
    assert wanted["output_deps"] == [0, 1, 2, 3, 4]
    assert (wanted["max_failures"], wanted["max_running"]) == (None, None)
    assert [len(blobs), load_with(blobs[1])] == [4, ((1,), {})]


def test_a_manifest_shows_the_source_of_each_electron() -> None:
    functions: Any = manifest(hf.lattice(lambda: add(1)).build_graph())[0]["functions"]
    assert functions["0"]["name"] == "add"
    assert functions["0"]["module"] == __name__
    assert functions["0"]["source"].startswith("@hf.electron\ndef add(x: int, y: int = 10) -> int:")


def test_a_function_without_source_is_sent_all_the_same() -> None:
    scope: dict[str, Any] = {}
    exec("def made(x):\n    return x + 1", scope)
    traced = hf.lattice(lambda: hf.electron(scope["made"])(1)).build_graph()
    assert [text.source for text in traced.functions.values()] == [None]
    assert run(traced) == 2


def test_an_electron_survives_its_own_pickle() -> None:
    again: Electron[[int], int] = load_with(dumps(add.with_options(cpus=2)))
    assert (again(1), again.annotations.cpus, again.__name__) == (11, 2, "add")  # type: ignore[attr-defined]  # functools.update_wrapper


def test_ten_thousand_calls_trace_in_linear_memory_of_blobs() -> None:
    @hf.lattice
    def workflow() -> Any:
        return total(*[add(i) for i in range(10_000)])

    traced = workflow.build_graph()
    assert len(traced.graph.tasks) == 10_001
    assert len(traced.graph.tasks[-1].deps) == 10_000
    assert sum(map(len, traced.blobs)) < 1_000_000


def test_a_placeholder_error_is_told_by_the_electron_it_reached() -> None:
    with pytest.raises(PlaceholderError, match="The result of electron 'give' is not known"):
        hf.lattice(lambda: add(int(give(1)))).build_graph()

"""What stands for an electron's result while its lattice is traced."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import copy
import dataclasses
import math
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcflow as hf
from hpcflow.core.model import UserError
from hpcflow.sdk.workflow import PlaceholderError
from tests.unit.run_traced import run


@hf.electron
def give(value: Any) -> Any:
    return value


@dataclasses.dataclass
class Point:
    x: int
    y: int


def through(function: Callable[..., Any], *values: Any) -> Any:
    """Return what the function makes of the values when each comes from an electron."""
    return run(hf.lattice(lambda: function(*(give(value) for value in values))).build_graph())


# ---- expressions


@pytest.mark.parametrize(
    "op",
    [
        operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
        operator.lshift, operator.rshift, operator.and_, operator.or_, operator.xor,
        operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    ],
)  # fmt: skip
@pytest.mark.parametrize(("left", "right"), [(17, 3), (2, 2)])
def test_an_operator_on_results_gives_what_it_gives_on_values(
    op: Callable[[Any, Any], Any], left: int, right: int
) -> None:
    expected = op(left, right)
    assert through(op, left, right) == expected
    assert through(lambda x: op(x, right), left) == expected
    assert through(lambda x: op(left, x), right) == expected


@pytest.mark.parametrize("op", [operator.neg, operator.pos, abs, operator.invert])
def test_an_operator_on_one_result_gives_what_it_gives_on_the_value(op: Callable[[Any], Any]) -> None:
    assert through(op, -5) == op(-5)


def test_items_keys_slices_and_attributes_of_a_result_are_results() -> None:
    assert through(lambda e: e[1], [10, 11, 12]) == 11
    assert through(lambda e: e[-1], (10, 11, 12)) == 12
    assert through(lambda e: e[1:], [10, 11, 12]) == [11, 12]
    assert through(lambda e: e["energy"], {"energy": -3.5}) == -3.5
    assert through(lambda e: e.x + e.y, Point(1, 2)) == 3
    assert through(lambda e, i: e[i], [10, 11, 12], 2) == 12
    assert through(lambda e, i: e[i:], [10, 11, 12], 2) == [12]
    assert through(lambda e, i: e["rows"][i, 0], {"rows": {(1, 0): "hit"}}, 1) == "hit"


def test_results_meet_arrays_on_either_side() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(3.0)
    assert through(lambda e: array * e, 2.0).tolist() == [0.0, 2.0, 4.0]
    assert through(lambda e: e + array, 2.0).tolist() == [2.0, 3.0, 4.0]
    assert through(lambda e: numpy.float64(3) - e, 2.0) == 1.0


def test_an_operand_is_taken_as_it_was_when_the_expression_was_written() -> None:
    def body(start: Any) -> Any:
        more = [2]
        together = start + more
        more.append(3)
        return together

    assert through(body, [1]) == [1, 2]


def test_a_sum_of_many_results_does_not_go_deep() -> None:
    assert through(lambda *xs: sum(xs), *range(3000)) == sum(range(3000))


def test_a_doubled_expression_is_evaluated_once() -> None:
    def body(value: Any) -> Any:
        for _ in range(200):
            value = value + value
        return value

    assert through(body, 1) == 2**200


def test_one_expression_used_twice_is_one_object() -> None:
    def body(value: Any) -> Any:
        first = value[0]
        return [first, first]

    left, right = through(body, [[1]])
    assert left is right


# ---- unpacking


def test_a_result_unpacks_into_as_many_names_as_the_line_has() -> None:
    def body(whole: Any) -> Any:
        a, b, (c, d) = whole
        return [d, c, b, a]

    assert through(body, (1, 2, (3, 4))) == [4, 3, 2, 1]


def test_a_result_unpacks_into_more_than_255_names() -> None:
    names = ", ".join(f"v{index}" for index in range(300))
    scope: dict[str, Any] = {}
    exec(f"def body(whole):\n    {names} = whole\n    return v0, v299", scope)
    assert through(scope["body"], list(range(300))) == (0, 299)


def test_results_unpack_in_a_loop_over_a_list_of_them() -> None:
    def body(*pairs: Any) -> Any:
        return [b for _, b in pairs]

    assert through(body, (1, 2), (3, 4)) == [2, 4]


def test_unpacking_a_result_of_another_length_fails_where_it_is_evaluated() -> None:
    def body(whole: Any) -> Any:
        a, b = whole
        return a + b

    with pytest.raises(ValueError, match=r"too many values to unpack \(expected 2, got 3\)"):
        through(body, (1, 2, 3))


# ---- what can't be answered before the electron has run


def starred(whole: Any) -> Any:
    _first, *rest = whole
    return rest


def looped(whole: Any) -> Any:
    return [item for item in whole]  # noqa: C416  # the loop is the point


def set_attribute(whole: Any) -> None:
    whole.x = 1


@pytest.mark.parametrize(
    ("ask", "advice"),
    [
        (bool, "move the decision into an electron"),
        (lambda e: 1 if e else 2, "move the decision into an electron"),
        (lambda e: 1 if e == 1 else 2, "move the decision into an electron"),
        (lambda e: e and 1, "move the decision into an electron"),
        (lambda e: not e, "move the decision into an electron"),
        (lambda e: 0 < e < 2, "move the decision into an electron"),
        (lambda e: e == 3 or e == 4, "move the decision into an electron"),  # noqa: PLR1714
        (list, "loop inside an electron"),
        (looped, "loop inside an electron"),
        (starred, "loop inside an electron"),
        (lambda e: print(*e), "loop inside an electron"),
        (lambda e: {**{"a": 1}, "b": [*e]}, "loop inside an electron"),
        (lambda e: list(zip(e, e, strict=True)), "loop inside an electron"),
        (len, "count inside an electron"),
        (int, "convert inside an electron"),
        (float, "convert inside an electron"),
        (complex, "convert inside an electron"),
        (round, "convert inside an electron"),
        (math.sqrt, "convert inside an electron"),
        (range, "do that inside an electron"),
        (lambda e: [1, 2][e], "do that inside an electron"),
        (lambda e: 1 in e, "search inside an electron"),
        (lambda e: f"{e}", "make the text inside an electron"),
        (lambda e: f"{e:.2f}", "make the text inside an electron"),
        (lambda e: e.mean(), "call them inside an electron"),
        (lambda e: operator.setitem(e, 0, 1), "change it inside an electron"),
        (lambda e: operator.delitem(e, 0), "change it inside an electron"),
        (set_attribute, "change it inside an electron"),
        (pickle.dumps, "pass it to an electron"),
    ],
)
def test_a_question_to_a_result_that_does_not_exist_yet_is_refused_with_advice(
    ask: Callable[[Any], object], advice: str
) -> None:
    with pytest.raises(PlaceholderError) as refused:
        through(ask, 1)
    sentence = str(refused.value)
    assert sentence.startswith("The result of electron 'give' is not known while its lattice is traced; ")
    assert advice in sentence


def test_a_refusal_is_the_users_error_and_pythons_type_error() -> None:
    assert issubclass(PlaceholderError, UserError)
    assert issubclass(PlaceholderError, TypeError)


# ---- living among other objects


def test_placeholders_are_hashed_and_found_by_identity() -> None:
    def body(a: Any, b: Any) -> Any:
        assert a in {a} and b not in {a}
        assert a in [a]
        assert {a: 1, b: 2}[b] == 2
        return {a, b}

    assert through(body, 1, 2) == {1, 2}


def test_a_copied_placeholder_is_the_same_one() -> None:
    def body(e: Any) -> Any:
        assert copy.copy(e) is e and copy.deepcopy([e])[0] is e
        assert dataclasses.asdict(Point(e, 2))["x"] is e
        return copy.deepcopy({"deep": [e]})

    assert through(body, 7) == {"deep": [7]}


@pytest.mark.parametrize(
    "name", ["__array__", "__len_hint__", "__fspath__", "_repr_html_", "_ipython_display_", "_repr_mimebundle_"]
)
def test_protocols_that_libraries_ask_for_are_no_expressions(name: str) -> None:
    def body(e: Any) -> Any:
        assert not hasattr(e, name)
        return e

    assert through(body, 1) == 1


def test_a_placeholder_shows_what_it_stands_for() -> None:
    def body(e: Any) -> Any:
        shown.extend([repr(e), repr(e[0].energy), repr(e + 1), str(e["a"])])
        return e

    shown: list[str] = []
    through(body, 1)
    assert shown == [
        "<placeholder give#0>",
        "<placeholder give#0[0].energy>",
        "<placeholder add(give#0, 1)>",
        "<placeholder give#0['a']>",
    ]


# ---- any expression at all

NUMBERS = st.integers(min_value=-5, max_value=5)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.tuples(st.sampled_from(["add", "sub", "mul", "lt", "eq"]), inner, inner)
        | st.tuples(st.just("item"), inner, inner)
    ),
    max_leaves=12,
)


def evaluated(spec: Any, leaf: Callable[[int], Any]) -> Any:
    if isinstance(spec, int):
        return leaf(spec)
    op, left, right = spec[0], evaluated(spec[1], leaf), evaluated(spec[2], leaf)
    return leaf({"x": [left]})["x"][0] + right if op == "item" else getattr(operator, op)(left, right)  # type: ignore[arg-type]  # an electron takes anything


@settings(deadline=None)
@given(EXPRESSIONS)
def test_any_expression_on_results_gives_what_it_gives_on_values(spec: Any) -> None:
    assert run(hf.lattice(lambda: evaluated(("add", 0, spec), give)).build_graph()) == evaluated(spec, lambda x: x)

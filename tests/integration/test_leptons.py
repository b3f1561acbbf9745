"""Tasks in other languages: a C library, bash commands and scripts, a module of the cluster's."""

from __future__ import annotations

import json
import subprocess

from tests.integration.world import User

LIBRARY = """
#include <stdint.h>
#include <string.h>
void add(int32_t a, int32_t b, int32_t *sum) { *sum = a + b; }
void scale(double *values, int32_t count, double by, int32_t *done) {
    for (int i = 0; i < count; i++) values[i] *= by;
    *done = count;
}
void length(const char *text, int64_t *out) { *out = (int64_t) strlen(text); }
void total(const double *values, int32_t count, double *out) {
    *out = 0;
    for (int i = 0; i < count; i++) *out += values[i];
}
void nothing(int32_t a) { (void) a; }
"""

C_PROGRAM = """
import json
import sys
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64

import numpy as np

import hpcflow as ct

library = sys.argv[1]
L = ct.Lepton

def c(name, *argtypes, **options):
    return ct.Lepton("C", library_name=library, function_name=name, argtypes=argtypes, executor="local", **options)

add = c("add", (c_int32, L.INPUT), (c_int32, L.INPUT), (POINTER(c_int32), L.OUTPUT))
scale = c("scale", (POINTER(c_double), L.INPUT_OUTPUT), (c_int32, L.INPUT), (c_double, L.INPUT),
          (POINTER(c_int32), L.OUTPUT), display_name="scale it")
length = c("length", (c_char_p, L.INPUT), (POINTER(c_int64), L.OUTPUT))
total = c("total", (POINTER(c_double), L.INPUT), (c_int32, L.INPUT), (POINTER(c_double), L.OUTPUT))
nothing = c("nothing", (c_int32, L.INPUT))
missing = c("no_such_function", (c_int32, L.INPUT))

@ct.lattice
def flow():
    scaled = scale([1.0, 2.0, 3.0], 3, 2.0)
    return (add(1, 2), add(1, 2, 0), scaled, length("héllo"), total(np.arange(4.0), 4), nothing(1), add(1), add("x", 1),
            missing(1))

result = ct.dispatch_sync(flow)()
print(json.dumps([[node.result for node in result.tasks() if not node.error],
                  [node.error for node in result.tasks() if node.error],
                  [node.name for node in result.tasks()][:3]]))
"""

BASH_PROGRAM = """
import json
import sys

import hpcflow as ct

L = ct.Lepton
script, hostile = sys.argv[1:]

shown = ct.Lepton("bash", command='printf "<%s>" "$@" "$named"; echo *', display_name="show")
numbers = ct.Lepton("bash", command="count=$(( $1 * 2 )); ratio=0.5; word=\\"$1 $2\\"; exit 0",
                    named_outputs=["count", "ratio", "word"],
                    argtypes=[(int, L.INPUT), (int, L.OUTPUT), (float, L.OUTPUT), (str, L.OUTPUT)],
                    display_name="numbers")
of_script = ct.Lepton("bash", script, "greet", named_outputs=["greeting"])
whole_script = ct.Lepton("bash", library_name=script)
unset = ct.Lepton("bash", command="true", named_outputs=["never"], display_name="unset")
fails = ct.Lepton("bash", command="echo on the way; echo went wrong >&2; exit 3", display_name="fails")

@ct.electron
def two():
    return 2

@ct.leptons.bash
def listed(name, n):
    return f"echo {n} > {name}; echo $(<{name}) {name}"

@ct.leptons.bash(display_name="counted", named_outputs=["lines"], deps_bash="echo 5 >five")
def counted():
    return "lines=$(<five)"

@ct.leptons.bash
def no_command():
    return 3

@ct.lattice(executor="local")
def flow():
    return (shown(hostile, two(), named=hostile), numbers(two(), hostile), of_script(hostile), listed("out", two()),
            counted(), whole_script(), unset(), fails(), no_command(),
            ct.Lepton("bash", command="echo $1", display_name="a list")([1]))

result = ct.dispatch_sync(flow)()
print(json.dumps([[node.name, node.result, node.error, node.stdout, node.stderr.splitlines()[:1]]
                  for node in result.tasks()]))
print(ct.Lepton("python", "json", "dumps")([1]), ct.Lepton(command="echo $1", language="bash")("plainly"))
for wrong in (dict(language="C"), dict(language="fortran"), dict(language="bash"),
              dict(language="bash", command="x", named_outputs=["a b"]), dict(language="bash", command="x", nodes=0)):
    try:
        ct.Lepton(**wrong)
    except ct.UserError as error:
        print(error)
"""


def test_functions_of_a_c_library_take_and_give_values(user: User) -> None:
    source, library = user.writes("library.c", LIBRARY), user.folder / "lib own.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    values, errors, names = json.loads(user.runs(C_PROGRAM, str(library)))

    assert values == [[[2.0, 4.0, 6.0], 3], 3, 3, 6, 6.0, None]
    assert names == ["scale it", "add", "add"]
    assert errors[:2] == [
        "LeptonFailed: add takes 2 arguments, and was given 1.",
        "LeptonFailed: Argument 1 can't be a c_int: 'str' object cannot be interpreted as an integer, and it is a "
        "value of type 'str'.",
    ]
    assert errors[2].endswith("has no function 'no_such_function'.")


def test_bash_gets_its_arguments_as_words_and_gives_back_named_variables(user: User) -> None:
    script = user.writes("lib.sh", 'greet() { greeting="hello $1"; }\n')
    hostile = "; touch broken $(touch broken) `touch broken` ' \" *"
    first, *rest = user.runs(BASH_PROGRAM, str(script), hostile).splitlines()
    nodes = {name: told for name, *told in json.loads(first)}

    assert nodes["show"][2] == f"<{hostile}><2><{hostile}>*\n"  # nothing was touched
    assert [nodes[name][0] for name in ("show", "bash", "greet", "listed", "counted")] == [
        None,
        None,
        f"hello {hostile}",
        None,
        "5",
    ]
    assert nodes["numbers"][0] == [4, 0.5, f"2 {hostile}"]
    assert nodes["listed"][2] == "2 out\n"
    assert nodes["fails"][1:] == [
        "LeptonFailed: fails: 'echo on the way; echo went wrong >&2; exit 3' ended with exit code 3. Its stderr ends: "
        "went wrong",
        "on the way\n",
        ["went wrong"],
    ]
    assert [nodes[name][1] for name in ("unset", "no_command", "a list")] == [
        "LeptonFailed: unset: the command set no variable 'never', which named_outputs wants.",
        "LeptonFailed: no_command must return a command as text, not 'int'.",
        "LeptonFailed: argument 1 of a bash lepton is a list: give numbers, texts or paths.",
    ]
    assert rest == [
        "plainly",
        "[1] None",
        "The lepton 'C': C needs library_name= and function_name=.",
        "The lepton 'fortran': the language 'fortran' is none of 'python', 'C' and 'bash'.",
        "The lepton 'bash': bash needs either command= or library_name=, a script.",
        "The lepton 'bash': named_outputs: 'a b' is no shell variable's name.",
        "The lepton 'bash': nodes=0 must be between 1 and 100000.",
    ]

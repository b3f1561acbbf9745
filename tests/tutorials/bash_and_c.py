"""Steps in other languages: a C function of a shared library, and bash commands, between Python functions."""

import os
import subprocess
import sys
from ctypes import POINTER, c_double, c_int32
from pathlib import Path

import hpcflow as ct

folder = Path(sys.argv[1])
library = folder / "libdot.so"
SOURCE = """
#include <stdint.h>
void dot(const double *a, const double *b, int32_t n, double *result) {
    *result = 0;
    for (int32_t i = 0; i < n; i++) *result += a[i] * b[i];
}
"""

dot = ct.Lepton(
    "C",
    library_name=str(library),
    function_name="dot",
    argtypes=[
        (POINTER(c_double), ct.Lepton.INPUT),
        (POINTER(c_double), ct.Lepton.INPUT),
        (c_int32, ct.Lepton.INPUT),
        (POINTER(c_double), ct.Lepton.OUTPUT),
    ],
)


@ct.electron
def compile_library():
    (folder / "dot.c").write_text(SOURCE)
    subprocess.run(
        ["/usr/bin/gcc", "-shared", "-fPIC", "-o", str(library), str(folder / "dot.c")],
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        check=True,
    )
    return str(library)


@ct.leptons.bash
def write(name, value):
    return f'echo "{value}" > "{folder}/{name}"'


@ct.electron
def read(name):
    return float((folder / name).read_text())


double = ct.Lepton(
    "bash",
    command="twice=$(( ${1%.*} * 2 ))",
    named_outputs=["twice"],
    argtypes=[(float, ct.Lepton.INPUT), (int, ct.Lepton.OUTPUT)],
)


@ct.lattice
def workflow():
    compiled = compile_library()
    product = dot([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], 3)
    ct.wait(product, [compiled])
    written = write("product", product)
    back = read("product")
    ct.wait(back, [written])
    return double(back)


result = ct.dispatch_sync(workflow)()
print(result.status, result.result)

# prints: COMPLETED 64

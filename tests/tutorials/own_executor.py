"""Write an executor that times what it runs, and prepare tasks by hooks in a directory of their own."""

# prints: 332833500 332833501 (4, ['b.txt', 'pwd.txt']) hello 1 True

import os
import sys
import time
from pathlib import Path

import hpcflow as ct


class TimingExecutor(ct.executor.BaseExecutor):
    def __init__(self, timing_filepath="", *args, **kwargs):
        self.timing_filepath = str(Path(timing_filepath).resolve())
        super().__init__(*args, **kwargs)

    def run(self, function, args, kwargs, task_metadata):
        begin = time.process_time()
        result = function(*args, **kwargs)
        with open(self.timing_filepath, "a") as file:
            file.write(f"Node {task_metadata['node_id']}: {time.process_time() - begin} s\n")
        return result


timing = TimingExecutor(Path(sys.argv[1]) / "timing.txt")
local = ct.executor.LocalExecutor(workdir=str(Path(sys.argv[1]) / "work"), create_unique_workdir=True)


def prepared(path):
    Path(path).write_text("before")
    return 3


@ct.electron(executor=timing)
def heavy(n):
    return sum(i * i for i in range(n))


@ct.electron
def more(x):
    return x + 1


@ct.electron(
    executor=local,
    deps_bash=ct.DepsBash(["echo hello", "pwd >pwd.txt"]),
    call_before=[ct.DepsCall(prepared, args=["b.txt"], retval_keyword="given")],
    call_after=ct.DepsCall(print, args=["after"]),
)
def hooked(x, given=None):
    return x + given, sorted(os.listdir())


@ct.lattice
def workflow(n):
    value = heavy(n)
    return value, more(value), hooked(1)


if __name__ == "__main__":
    result = ct.get_result(ct.dispatch(workflow)(1000), wait=True)
    told = result.get_node_result(2)["stdout"].split()
    timed = Path(timing.timing_filepath).read_text().splitlines()
    print(*result.result, told[0], len(timed), timed[0].startswith("Node 0: "))

"""Files from step to step: made by a command, brought to a task, changed by it, and put where they are wanted."""

import sys
from pathlib import Path

import hpcflow as ct

folder = Path(sys.argv[1])
raw, clean, report = folder / "raw.csv", folder / "clean.csv", folder / "report.txt"


@ct.electron(deps_bash=ct.DepsBash([f'for i in 1 2 3 x 4; do echo "$i,$i"; done > "{raw}"']))
def measure():
    return str(raw)


@ct.electron(
    files=[
        ct.fs.TransferFromRemote(f"file://{raw}", "input.csv", ct.fs_strategies.Shutil()),
        ct.fs.FileTransfer("output.csv", str(clean), order=ct.fs.Order.AFTER),
    ]
)
def tidy(path, files=[]):  # noqa: B006  # as Covalent's tutorials write it
    (_, here), (result, _) = files
    lines = [line for line in Path(here).read_text().splitlines() if "x" not in line]
    Path(result).write_text("\n".join(lines) + "\n")
    return len(lines)


@ct.electron(
    files=ct.fs.FileTransfer(str(clean)),
    call_before=ct.DepsCall(lambda: "sum", retval_keyword="title"),
    call_after=ct.DepsBash(f'echo done >> "{report}"'),
)
def summarise(count, title, files=[]):  # noqa: B006
    values = [float(line.split(",")[0]) for line in Path(files[0][1]).read_text().splitlines()]
    report.write_text(f"{title} {sum(values)} of {count}\n")
    return sum(values)


@ct.lattice
def pipeline():
    count = tidy(measure())
    return count, summarise(count)


dispatch_id = ct.dispatch(pipeline)()
result = ct.get_result(dispatch_id, wait=True)
print(result.status, result.result, report.read_text().splitlines())

# prints: COMPLETED (4, 10.0) ['sum 10.0 of 4', 'done']

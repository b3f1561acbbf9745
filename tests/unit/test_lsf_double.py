"""The double says what OpenLava said, whose words are LSF's: the recorded commands again, their answers compared."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Final

import pytest

from tests.fakes.double import Double, running
from tests.integration.world import until
from tests.unit.transcripts import Entry, transcript

SCRIPT: Final = "#!/bin/bash\n#BSUB -J inscript\n#BSUB -o inscript.%J.out\ntrue\n"
ARRAY: Final = """#!/bin/bash
case $LSB_JOBINDEX in 1) exit 0 ;; 2) exit 3 ;; 3) kill -SEGV $$ ;; 5) exit 9 ;; *) sleep 300 ;; esac
"""


class Replay:
    """The double, with the files that the transcripts speak of."""

    def __init__(self, double: Double) -> None:
        self.double = double
        self.folder = double.folder / "l"
        self.folder.mkdir()
        for name, text in (("s.sh", SCRIPT), ("arr.sh", ARRAY)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)

    def again(self, command: str) -> CompletedProcess[str]:
        line, _, file = command.partition(" < ")
        stdin = (self.folder / file).read_text() if file else ""
        path = f"{self.double.path}:{self.folder}:/usr/bin:/bin"
        return self.double.run(*shlex.split(line), stdin=stdin, cwd=self.folder, PATH=path)

    def replay(self, entry: Entry) -> None:
        done = self.again(entry.command)
        assert self.alike(done.stdout) == alike(entry.reply.stdout.decode()), entry.command
        assert self.alike(done.stderr) == alike(entry.reply.stderr.decode()), entry.command
        assert done.returncode == entry.reply.exit_code, entry.command

    def alike(self, text: str) -> str:
        text = text.replace("\n" + " " * 21, "").replace(str(self.double.folder), "/home/hpc")
        return alike(re.sub(rf"\b{os.environ.get('USER', 'root')}\b", "hpc", text))


def alike(text: str) -> str:
    """Return an answer without what no two runs have in common."""
    text = text.replace("\n" + " " * 21, "")
    text = re.sub(r"(?<=Pid )<?\d+>?", "PID", text)
    text = re.sub(r"\b[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d", "WHEN", text)
    text = re.sub(r"\b[A-Z][a-z]{2} +\d+ \d\d:\d\d\b", "DAY", text)
    text = re.sub(r"(?m)^  \d.*$", "SPENT", text)
    text = re.sub(r"(?m)^ {2}-- short$|^ \d+\.0 min of *$", "", text)
    text = re.sub(r" +", " ", text)
    return "\n".join(sorted(line.rstrip() for line in text.splitlines()))


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    with running("lsf", tmp_path_factory.mktemp("lsf") / "double", cores=4) as double:
        started = Replay(double)
        for entry in transcript("lsf", "openlava_bsub"):
            # These wait for something else, which is none of this transcript's business.
            if "LSF_ENVDIR" not in entry.command and "n 9999" not in entry.command:
                started.replay(entry)

        def settled() -> bool:
            return started.again("bjobs -a 5").stdout.count(" EXIT ") == 3

        until(settled)
        yield started


def test_submissions_and_refusals_are_as_recorded(replay: Replay) -> None:
    assert [job["number"] for job in replay.double.control()["jobs"]] == [1, 2, 3, 4, 5, 6, 7]


def test_what_bjobs_shows_has_the_recorded_columns(replay: Replay) -> None:
    shown = {entry.command: entry for entry in transcript("lsf", "openlava_bjobs")}
    for command in ("bjobs 1", "bjobs 99999", "bjobs -a 1 99999", 'bjobs "5[2-3]"'):
        replay.replay(shown[command])
    replay.double.run("bkill", "6")
    until(lambda: " EXIT " in replay.again("bjobs -a 6").stdout)
    summary = replay.alike(replay.again("bjobs -A 5 6 7").stdout)
    recorded = alike(shown["bjobs -A"].reply.stdout.decode())
    # Of the first array, four elements still ran there; of ours, one slot of four may be taken by another job.
    assert summary.splitlines()[1:] == recorded.splitlines()[1:]


def test_what_never_starts_says_why(replay: Replay) -> None:
    (recorded,) = [entry for entry in transcript("lsf", "openlava_bjobs") if entry.command == "bjobs -p"]
    number = re.findall(r"<(\d+)>", replay.again('bsub -w "done(1)" true').stdout)[0]

    assert alike(recorded.reply.stdout.decode()).replace("23 hpc", f"{number} hpc") in replay.alike(
        replay.again(f"bjobs -p {number}").stdout
    )
    replay.again(f"bkill {number}")


def test_bhist_is_cut_after_eighty_columns_as_recorded(replay: Replay) -> None:
    shown = {entry.command: entry for entry in transcript("lsf", "openlava_bhist")}
    for command in ("bhist -l 2", 'bhist -l "5[2]"', "bhist 99999"):
        replay.replay(shown[command])
    assert max(map(len, replay.again("bhist -l 2").stdout.splitlines())) <= 80


def test_bqueues_is_as_recorded(replay: Replay) -> None:
    shown = {entry.command: entry for entry in transcript("lsf", "openlava_bqueues")}
    replay.replay(shown["bqueues nosuch"])
    (head, *_), (again, *_) = (
        shown["bqueues"].reply.stdout.decode().splitlines(),
        replay.again("bqueues").stdout.splitlines(),
    )
    assert head == again
    long = shown["bqueues -l short | head -30"].reply.stdout.decode()
    assert replay.alike(replay.again("bqueues -l short").stdout) == alike(long)


def test_bkill_answers_element_by_element(replay: Replay) -> None:
    shown = {entry.command: entry for entry in transcript("lsf", "openlava_bkill")}
    for command in (
        "bkill 5[1]",
        "bkill 5[99]",
        "bkill 99999",
        "bkill 1",
        'bkill -s USR1 "5[4]"',
        'bkill "5[7-8]"',
        'bkill "5[6]"',
    ):
        replay.replay(shown[command])


def test_bkill_without_an_id_ends_the_last_job(replay: Replay) -> None:
    replay.again("bsub sleep 300")
    last = re.findall(r"<(\d+)>", replay.again("bsub sleep 300").stdout)[0]

    assert replay.again("bkill").stdout == f"Job <{last}> is being terminated\n"


def test_json_is_as_the_manual_has_it(replay: Replay) -> None:
    said = json.loads(replay.again("bjobs -a -json -o 'jobid jobindex stat exit_code' '5[1-3]' 99999").stdout)

    assert (said["COMMAND"], said["JOBS"]) == ("bjobs", 4)
    assert said["RECORDS"] == [
        {"JOBID": "5", "JOBINDEX": "1", "STAT": "DONE", "EXIT_CODE": ""},
        {"JOBID": "5", "JOBINDEX": "2", "STAT": "EXIT", "EXIT_CODE": "3"},
        {"JOBID": "5", "JOBINDEX": "3", "STAT": "EXIT", "EXIT_CODE": "139"},
        {"JOBID": "99999", "ERROR": "Job <99999> is not found"},
    ]


def test_variables_of_a_job_are_the_recorded_ones(replay: Replay) -> None:
    recorded = transcript("lsf", "openlava_env")[0].reply.stdout.decode()
    replay.double.run("bsub", "-J", "inscript", "-o", str(replay.folder / "env"), "env", cwd=replay.folder)
    text = until(lambda: (replay.folder / "env").exists() and (replay.folder / "env").read_text())

    for name in ("LSB_JOBID", "LSB_JOBINDEX=0", "LSB_JOBNAME=inscript", "LSB_QUEUE=normal", "LSB_HOSTS=vm"):
        assert name in str(text) and name in recorded

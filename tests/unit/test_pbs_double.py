"""The double says what OpenPBS said: the recorded commands again, and their answers compared."""

from __future__ import annotations

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

OK: Final = "#!/bin/bash\n#PBS -N okjob\n#PBS -l select=1:ncpus=1:mem=64mb\n#PBS -l walltime=00:01:00\nsleep 0\n"
ARRAY: Final = """#!/bin/bash
#PBS -N arrjob
#PBS -l select=1:ncpus=1:mem=64mb
#PBS -l walltime=00:10:00
case $PBS_ARRAY_INDEX in
    0) exit 0 ;; 1) exit 3 ;; 2) kill -SEGV $$ ;; 3) kill -TERM $$ ;; 5) exit 255 ;; *) sleep 300 ;;
esac
"""
#: Attributes whose values depend on the machine, the moment or the file system, and not on the scheduler.
LOCAL: Final = ("PBS_O_PATH", "PBS_O_LOGNAME", "PBS_O_MAIL")


class Replay:
    """The double, and the numbers that it gave to the jobs of the transcripts."""

    def __init__(self, double: Double) -> None:
        self.double = double
        self.folder = double.folder / "w"
        self.folder.mkdir()
        (self.folder / "ok.sh").write_text(OK)
        (self.folder / "arr.sh").write_text(ARRAY)
        self.numbers: dict[str, str] = {}

    def again(self, command: str) -> CompletedProcess[str]:
        """Run a recorded command, with the double's own job numbers."""
        for old, new in self.numbers.items():
            command = re.sub(rf"(?<![\w.:=/-]){old}(?=[\[.'\"\s]|$)", f"@{new}", command)
        words = shlex.split(command.replace("@", ""))
        return self.double.run(*words, cwd=self.folder)

    def replay(self, entry: Entry) -> None:
        """Run a recorded command and compare what it says."""
        done = self.again(entry.command)
        recorded = entry.reply.stdout.decode()
        for old, new in zip(_numbers(recorded), _numbers(done.stdout), strict=False):
            self.numbers.setdefault(old, new)
        assert self.alike(done.stdout) == alike(recorded), entry.command
        assert self.alike(done.stderr) == alike(entry.reply.stderr.decode()), entry.command
        assert done.returncode == entry.reply.exit_code, entry.command

    def alike(self, text: str) -> str:
        user = os.environ.get("USER", "root")
        text = text.replace(str(self.double.folder), "/home/hpc")
        return alike(re.sub(rf"\b(?:{user}|root)\b(?=@|\s)", "hpc", text))


def _numbers(text: str) -> list[str]:
    return re.findall(r"^(\d+)(?:\[\])?\.pbs01$", text, re.MULTILINE)


def alike(text: str) -> str:
    """Return an answer without what no two runs have in common."""
    text = re.sub(r"\d+(?=(?:\[\d*\])?\.(?:pbs01|otherhost))", "N", text)
    text = re.sub(r" +", " ", text)  # columns: numbers differ in width
    text = re.sub(r"(?<=okjob\.[oe])\d+|(?<=arrjob\.[oe])\d+|(?<=STDIN\.[oe])\d+", "N", text)
    text = re.sub(r"(Sun|Mon|Tue|Wed|Thu|Fri|Sat) \w{3} +\d+ (?:at \d\d:\d\d|\d\d:\d\d:\d\d \d{4})", "DATE", text)
    text = re.sub(r'("(?:timestamp|history_timestamp|\w+_time|total_jobs|session_id)":)\s*\d+', r"\1 T", text)
    text = re.sub(
        r'("(?:cpupercent|cput|mem|vmem|walltime)":)\s*(?:"\d[\w:]*(?<!4mb)"|\d+)(?=,?\n\t{3,4}[}"])', r"\1 U", text
    )
    text = re.sub(r'\t*"session_id": T,\n', "", text)
    text = re.sub(rf'("(?:{"|".join(LOCAL)})":)\s*"[^"]*"', r"\1 L", text)
    text = re.sub(rf"({'|'.join(LOCAL)})=[^,]*", r"\1=L", text)
    text = re.sub(r"(?<=exec_host\":\t\"pbs01/)\d+", "S", text)
    return re.sub(r"state_count\":\t\"Transit.*", "COUNT", text)


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    with running("pbs", tmp_path_factory.mktemp("pbs") / "double", cores=64, first=2) as double:
        yield Replay(double)


def entries(name: str, *, without: str = "$^") -> list[Entry]:
    return [entry for entry in transcript("pbs", name) if not entry.by_root and not re.search(without, entry.command)]


def test_submissions_are_taken_as_recorded(replay: Replay) -> None:
    for entry in entries("01", without=r"block=|\|"):
        replay.replay(entry)


def test_refusals_have_their_words_and_exit_codes(replay: Replay) -> None:
    seen = entries("02", without=r"PBS_CONF_FILE")
    for entry in seen:
        replay.replay(entry)
    assert len(seen) > 25


def test_a_server_that_is_down_is_refused_as_recorded(replay: Replay) -> None:
    replay.double.set(down=True)
    try:
        for entry in [*transcript("pbs", "02"), *transcript("pbs", "18")]:
            if "down.conf" in entry.command:
                again = Entry(entry.command.partition(" ")[2], entry.reply)
                replay.replay(again)
    finally:
        replay.double.set(down=False)


def test_queries_about_one_job_have_the_recorded_fields_in_their_order(replay: Replay) -> None:
    held = replay.again("qsub -h ok.sh").stdout.partition(".")[0]
    ended = replay.again("qsub ok.sh").stdout.partition(".")[0]
    replay.numbers |= {"5": held, "2": ended}
    until(lambda: replay.again(f"qstat {ended}").returncode == 35)
    for entry in entries("03", without=r"^qstat$|\||-u hpc|; |-Q$| 9$| 9 |^qstat -a"):
        replay.replay(entry)
    assert replay.again("qstat --version").stdout == "pbs_version = 23.06.06\n"


def test_a_job_whose_dependency_never_comes_true_ends_without_a_word(replay: Replay) -> None:
    (recorded,) = [entry for entry in transcript("pbs", "03") if "qstat -xf 24" in entry.command]
    number = replay.again("qsub -W depend=afterok:99999 ok.sh").stdout.partition(".")[0]
    said = replay.again(f"qstat -xf {number}").stdout

    def names(text: str) -> list[str]:
        return re.findall(r"^    ([\w.]+) = ", text, re.MULTILINE)

    assert names(said) == names(recorded.reply.stdout.decode())


def test_an_array_has_the_recorded_records_while_it_lives(replay: Replay) -> None:
    number = replay.again("qsub -J 0-7 arr.sh").stdout.partition("[")[0]
    replay.numbers["26"] = number

    def settled() -> bool:
        return replay.again(f"qstat -t {number}[]").stdout.count(" X ") == 5

    until(settled)
    for entry in entries("04", without=r"\||-pt|^qstat -xt|^qstat -t 26"):
        if entry.command == "qstat 26[]" or "json" in entry.command or "-x 26" in entry.command:
            replay.replay(entry)


def test_deletions_are_answered_as_recorded(replay: Replay) -> None:
    number = replay.again("qsub -h -J 0-5 ok.sh").stdout.partition("[")[0]
    replay.numbers["79"] = number
    deletions = entries("05", without=r"qdel 64|1002|1003|2047|grep|qstat|-x 23|qdel 2$|20\[\]")
    alive = [entry for entry in deletions if entry.reply.exit_code != 162 and "26[" not in entry.command]
    for entry in alive:
        if "'79[0-1]' '79[4]'" not in entry.command:
            replay.replay(entry)
    assert [entry.reply.exit_code for entry in alive].count(0) >= 3


def test_elements_that_had_ended_lose_their_record_with_the_whole_array(replay: Replay) -> None:
    number = replay.again("qsub -J 0-7 arr.sh").stdout.partition("[")[0]
    until(lambda: replay.again(f"qstat -t {number}[]").stdout.count(" X ") == 5)
    replay.again(f"qdel {number}[]")
    until(lambda: replay.again(f"qstat -t {number}[]").returncode == 35)
    replay.numbers["1002"] = number

    (recorded,) = [entry for entry in transcript("pbs", "05") if "json '1002[]'" in entry.command]
    said = replay.again(f"qstat -x -t -f -F json '{number}[]'").stdout
    own = r"(?s)\"\w+\[0\]\.pbs01\":.*?\n\t\t\}"
    first, again = re.search(own, replay.alike(said)), re.search(own, alike(recorded.reply.stdout.decode()))
    assert first is not None and again is not None
    assert first[0] == again[0]
    assert said.count('"comment":\t"Subjob finished"') == recorded.reply.stdout.decode().count('"Subjob finished"')


def test_a_range_beside_another_id_in_one_qdel_ends_the_server(replay: Replay) -> None:
    number = replay.again("qsub -h -J 0-5 ok.sh").stdout.partition("[")[0]
    assert replay.again(f"qdel '{number}[0-1]' '{number}[4]'").returncode == 0
    try:
        assert "Connection refused" in replay.again(f"qstat {number}[]").stderr
    finally:
        replay.double.set(down=False)


def test_several_ids_are_one_answer_only_with_e(replay: Replay) -> None:
    one, other = (replay.again("qsub -h ok.sh").stdout.strip() for _ in range(2))

    assert other not in replay.again(f"qstat -x -f -F json {one} {other}").stdout
    both = replay.again(f"qstat -E -x -f -F json {one} 99999 {other}")
    assert one in both.stdout and other in both.stdout
    assert (both.returncode, both.stderr) == (0, "")


def test_hooks_reject_in_their_own_words(replay: Replay) -> None:
    (recorded,) = [entry for entry in transcript("pbs", "14") if "short" in entry.command]
    replay.double.set(reject="site policy: walltime required\nsee https://docs.example/walltime")
    try:
        replay.replay(recorded)
    finally:
        replay.double.set(reject="")

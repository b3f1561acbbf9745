"""Answers about submissions, limits and cancels, cut and damaged: what is read is the truth, or said to be unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcflow.core.model import HpcflowError, JobId
from hpcflow.core.plugin import Accepted, Plugin, Refused
from hpcflow_lsf import LsfPlugin
from hpcflow_pbs import PbsPlugin
from hpcflow_slurm import SlurmPlugin
from tests.unit.damage import EXAMPLES, TEXT, cuts, damaged
from tests.unit.transcripts import a_reply, an_array, transcript

PLUGINS: Final[Mapping[str, Plugin]] = {
    "slurm": SlurmPlugin(python="", worker="", root=""),
    "pbs": PbsPlugin(python="", worker="", root=""),
    "lsf": LsfPlugin(python="", worker="", root=""),
}
MARK: Final = "=== hpcflow 5c1f27e0 ===\n"

#: What a submission prints, how many array tasks it had, and the id that it got.
TAKEN: Final[Mapping[str, tuple[tuple[bytes, int, str], ...]]] = {
    "slurm": ((b"8123\n", 4, "8123"), (b"8123;mini\n", 4, "8123")),
    "pbs": ((b"26[].pbs01\n", 4, "26"), (b"1026.pbs01\n", 1, "1026")),
    "lsf": (
        (b"Job <5123> is submitted to queue <normal>.\n", 4, "5123"),
        (b"Cannot connect to LSF. Please wait ...\nJob <77> is submitted to default queue <normal>.\n", 4, "77"),
    ),
}
REFUSALS: Final[Mapping[str, list[tuple[bytes, int]]]] = {
    "slurm": [(b"sbatch: error: Batch job submission failed: Invalid partition name specified\n", 1)],
    "pbs": [
        (entry.reply.stderr, entry.reply.exit_code or 1)
        for entry in transcript("pbs", "02")
        if "qsub" in entry.command and entry.reply.exit_code
    ],
    "lsf": [
        (entry.reply.stderr, entry.reply.exit_code or 1)
        for entry in transcript("lsf", "openlava_bsub")
        if "bsub" in entry.command and entry.reply.exit_code
    ],
}


def _limits(name: str) -> bytes:
    """Return a whole answer about limits, as the plugin's own command has it."""
    if name == "slurm":
        config = "Configuration data as of 2026-11-26\nMaxArraySize            = 1001\nSLURM_VERSION = 22.05.8\n"
        return (
            config
            + MARK
            + "debug*|5:00|1-4|4|16|32000|gpu:4|NO\nbatch|infinite|1-infinite|4|16|32000|(null)|NO\n"
            + MARK
        ).encode()
    if name == "pbs":
        shown = {entry.command: entry.reply.stdout for entry in transcript("pbs", "03")}
        return MARK.encode().join(
            shown[command] for command in ("qstat -B -f -F json", "qstat -Q -f -F json", "pbsnodes -a -F json")
        )
    lsid = "IBM Spectrum LSF Standard 10.1.0.12, Apr 10 2021\n\nMy cluster name is double\nMy master name is vm\n"
    bparams = "Default Queues:  normal\nMAX_JOB_ARRAY_SIZE = 1000\n"
    queues = {entry.command: entry.reply.stdout.decode() for entry in transcript("lsf", "openlava_bqueues")}
    lshosts = (
        "HOST_NAME      type    model  cpuf ncpus maxmem maxswp server RESOURCES\n"
        "vm             X86_64  Intel_EM64T  60.0     4  36.0G      -    Yes (mg)\n"
    )
    return MARK.join((lsid, bparams, queues["bqueues -l short | head -30"], lshosts)).encode()


@pytest.mark.parametrize("name", PLUGINS)
def test_a_cut_id_is_nobodys_id(name: str) -> None:
    for stdout, width, job_id in TAKEN[name]:
        assert PLUGINS[name].parse_submit(an_array(width=width), a_reply(stdout)) == Accepted(JobId(job_id))
        for cut in cuts(stdout):
            said = PLUGINS[name].parse_submit(an_array(width=width), a_reply(cut))
            assert not isinstance(said, Accepted) or said.job_id == job_id, cut


@pytest.mark.parametrize("name", PLUGINS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_damage_never_makes_another_id(name: str, data: st.DataObject) -> None:
    stdout, width, job_id = data.draw(st.sampled_from(TAKEN[name]))
    answer = a_reply(damaged(data, stdout, TEXT), exit_code=data.draw(st.sampled_from([0, 1, 255, None])))

    said = PLUGINS[name].parse_submit(an_array(width=width), answer)

    assert not isinstance(said, Refused)
    assert not isinstance(said, Accepted) or said.job_id == job_id


@pytest.mark.parametrize("name", PLUGINS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_a_damaged_refusal_is_never_an_acceptance(name: str, data: st.DataObject) -> None:
    stderr, code = data.draw(st.sampled_from(REFUSALS[name]))
    words = (
        damaged(data, stderr, (*TEXT, "lost")) if data.draw(st.booleans()) else stderr[: data.draw(st.integers(0, 200))]
    )
    reply = a_reply(b"", words.decode("utf-8", "replace"), data.draw(st.sampled_from([code, 0, None])))

    assert not isinstance(PLUGINS[name].parse_submit(an_array(width=4), reply), Accepted)


@pytest.mark.parametrize("name", PLUGINS)
def test_cut_limits_are_the_limits_or_an_error(name: str) -> None:
    whole = _limits(name)
    truth = PLUGINS[name].parse_limits(a_reply(whole))
    for cut in cuts(whole):
        try:
            seen = PLUGINS[name].parse_limits(a_reply(cut))
        except HpcflowError as error:
            assert str(error)
        else:
            # What stands last is not needed: a site may hide its nodes.
            assert seen.array == truth.array
            assert [each.name for each in seen.partitions] == [each.name for each in truth.partitions]


@pytest.mark.parametrize("name", PLUGINS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_damaged_limits_are_an_error_or_no_larger_arrays(name: str, data: st.DataObject) -> None:
    truth = PLUGINS[name].parse_limits(a_reply(_limits(name)))
    answer = a_reply(damaged(data, _limits(name), TEXT))
    try:
        seen = PLUGINS[name].parse_limits(answer)
    except HpcflowError as error:
        assert str(error)
    else:
        assert seen.array.max_width <= truth.array.max_width


@pytest.mark.parametrize("name", PLUGINS)
@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from([0, 1, 127, 255, None]))
def test_noise_is_no_answer_to_anything(name: str, stdout: bytes, stderr: bytes, code: int | None) -> None:
    plugin = PLUGINS[name]
    reply = a_reply(stdout, stderr.decode("utf-8", "replace"), code)
    asks: tuple[Callable[[], object], ...] = (lambda: plugin.parse_limits(reply), lambda: plugin.parse_probe(reply))
    for ask in asks:
        with pytest.raises(HpcflowError):
            ask()
    assert not isinstance(plugin.parse_submit(an_array(width=4), reply), Accepted)
    assert plugin.parse_query([an_array(job_id="5")], [reply, reply]).rows == ()
    assert not plugin.parse_queue([reply, reply]).jobs
    if code is None:
        assert plugin.parse_cancel(reply)

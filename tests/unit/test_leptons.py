"""Bash leptons whose commands or arguments are not what they should be."""

from __future__ import annotations

import pytest

import hpcflow as hf
from hpcflow.sdk.lepton import LeptonFailed


def bash(command: str) -> hf.Lepton:
    return hf.Lepton("bash", command=command, named_outputs=["V", "W"], display_name="two")


@pytest.mark.parametrize("command", ["trap 'echo bye' EXIT; V=3 W=4", "V=3 W=4; exec true"])
def test_a_command_that_keeps_its_outputs_from_being_told_has_failed(command: str) -> None:
    with pytest.raises(LeptonFailed, match="two: the command ended without telling the variables V, W, which"):
        bash(command)()
    assert bash(f"({command})\nV=5 W=6")() == ("5", "6")


@pytest.mark.parametrize(
    "name", ["BASH_ENV", "ENV", "LD_PRELOAD", "BASH_FUNC_ls%%", "PATH", "IFS", "UID", "a=b", "a-b", ""]
)
def test_an_argument_by_a_name_that_changes_more_than_the_command_is_refused(name: str) -> None:
    with pytest.raises(hf.UserError, match=r"no shell variable's name|means something to bash"):
        bash("V=1 W=2")(**{name: "x"})


def test_other_names_are_variables_and_an_argument_that_is_too_long_is_told() -> None:
    assert bash("V=$path W=$DATA_PATH")(path="a", DATA_PATH="b") == ("a", "b")
    with pytest.raises(LeptonFailed, match=r"too long \(the longest has 300000 bytes, and Linux takes 131071"):
        bash("V=1 W=2")("x" * 300_000)

"""Hosts as they are: noisy, strict, behind others, with odd shells, or not who they should be."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncssh
import pytest

from hpcflow.core.plugin import Command
from hpcflow.server.remote import File, NeedsLogin, TransportError
from hpcflow.server.remote.connection import Connection
from hpcflow.server.remote.ssh import SshTransport
from tests.integration.sshd import WAYS, Sshd, key, sshd
from tests.integration.test_ssh_transport import PATIENCE_S, in_loop, sh
from tests.proxy import Proxy

NOISE = r"printf 'Welcome!\r\n\377\376 4711 jobs\n<0123> </0123 0>\n'; echo quota exceeded >&2"


@pytest.fixture(params=WAYS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """A function that starts an sshd with further lines of sshd_config, until the test ends."""
    with ExitStack() as stack:

        def begin(*options: str, name: str = "node") -> Sshd:
            return stack.enter_context(sshd(tmp_path / name, *options, way=request.param))

        yield begin


def a_wrapper(folder: Path, text: str) -> str:
    """Return the line of sshd_config that has every command go through a shell script."""
    script = folder / "wrapper"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return f"ForceCommand {script}"


async def check_all(transport: SshTransport, folder: Path) -> None:
    """Use a transport in every way that the server does."""
    reply = await transport.run(sh('cat; echo "$1"; echo said >&2; exit 3', "two\nlines!", stdin=b"\xff\n"), PATIENCE_S)
    assert (reply.exit_code, reply.stdout, reply.stderr) == (3, b"\xff\ntwo\nlines!\n", b"said\n")
    await transport.push(
        str(folder / "bag"), ("journal",), [File("payload.pack", [b"\0" * 9]), File("bag.json", [b"{}"])]
    )
    (folder / "bag/journal/17_0_0.jsonl").write_bytes(b"line\n")
    assert await transport.read_new(str(folder / "bag/journal"), {}) == {"17_0_0.jsonl": b"line\n"}
    assert await transport.read(str(folder / "bag/payload.pack"), 2, 100) == b"\0" * 7


@in_loop
async def test_what_login_scripts_print_is_never_part_of_an_answer(start: Callable[..., Sshd], tmp_path: Path) -> None:
    wrapper = a_wrapper(tmp_path, f'{NOISE}; sh -c "$SSH_ORIGINAL_COMMAND"; s=$?; {NOISE}; exit $s')
    transport = start(wrapper).transport()
    await check_all(transport, tmp_path)
    await transport.close()


@pytest.mark.skipif(shutil.which("tcsh") is None, reason="needs tcsh")
@in_loop
async def test_csh_as_login_shell_is_as_good_as_any(start: Callable[..., Sshd], tmp_path: Path) -> None:
    wrapper = a_wrapper(tmp_path, 'SHELL=/bin/tcsh exec /bin/tcsh -f -c "$SSH_ORIGINAL_COMMAND"')
    transport = start(wrapper).transport()
    await check_all(transport, tmp_path)
    await transport.close()


@pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox")
@in_loop
async def test_the_tools_of_busybox_are_enough(start: Callable[..., Sshd], tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    subprocess.run(["busybox", "--install", "-s", tools], check=True)
    wrapper = a_wrapper(tmp_path, f'PATH={tools} exec {tools}/sh -c "$SSH_ORIGINAL_COMMAND"')
    transport = start(wrapper).transport()
    await check_all(transport, tmp_path)
    await transport.close()


@in_loop
async def test_a_quota_on_the_cluster_is_told_and_leaves_nothing_half(
    start: Callable[..., Sshd], tmp_path: Path
) -> None:
    # A limit on the size of files fails a write as a quota does, and needs no file system of its own.
    limited = a_wrapper(tmp_path, "trap '' XFSZ; ulimit -f 64; exec sh -c \"$SSH_ORIGINAL_COMMAND\"")
    transport = start(limited).transport()
    big = [File("payload.pack", [os.urandom(1 << 20)]), File("bag.json", [b"{}"])]
    with pytest.raises(TransportError, match=r"bags/one on cluster: "):
        await transport.push(str(tmp_path / "bags/one"), (), big)
    assert list((tmp_path / "bags").iterdir()) == []
    await transport.push(str(tmp_path / "bags/one"), (), [File("bag.json", [b"{}"])])
    assert os.listdir(tmp_path / "bags/one") == ["bag.json"]
    await transport.close()


@in_loop
async def test_a_host_without_tar_is_told_so(start: Callable[..., Sshd], tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "mkdir", "rm", "env", "grep"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    transport = start(a_wrapper(tmp_path, f'PATH={tools}; export PATH; exec sh -c "$SSH_ORIGINAL_COMMAND"')).transport()
    with pytest.raises(TransportError, match=r"bags/one on cluster: .*tar.*not found"):
        await transport.push(str(tmp_path / "bags/one"), (), [File("bag.json", [b"{}"])])
    assert list((tmp_path / "bags").iterdir()) == []
    await transport.close()


@in_loop
async def test_a_profile_that_breaks_leaves_the_plain_environment(start: Callable[..., Sshd], tmp_path: Path) -> None:
    broken = a_wrapper(tmp_path, 'SHELL=/no/such/shell; export SHELL; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    transport = start(broken).transport()
    assert (await transport.run(sh("exit 5"), PATIENCE_S)).exit_code == 5
    await transport.close()


@in_loop
async def test_a_host_that_gives_no_shell_is_told_in_its_own_words(start: Callable[..., Sshd], tmp_path: Path) -> None:
    transport = start(a_wrapper(tmp_path, "echo 'This account is currently not available.'; exit 1")).transport()
    reply = await transport.run(Command(("true",)), PATIENCE_S)
    assert reply.exit_code is None
    assert reply.stderr.decode() == (
        "the login shell on cluster did not run a command. It wrote: This account is currently not available."
    )
    await transport.close()


@in_loop
async def test_one_session_at_a_time_is_enough(start: Callable[..., Sshd], tmp_path: Path) -> None:
    node = start("MaxSessions 1")
    transport = node.transport()
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(transport.run(sh("sleep 0.1; echo $1", str(n)), PATIENCE_S)) for n in range(12)]
    assert [task.result().stdout for task in running] == [f"{n}\n".encode() for n in range(12)]
    await check_all(transport, tmp_path)
    await transport.close()


@in_loop
async def test_an_unknown_host_is_refused_with_its_fingerprint(start: Callable[..., Sshd]) -> None:
    node = start()
    node.known_hosts.write_text("")
    transport = node.transport()
    fingerprint = asyncssh.read_public_key(node.folder / "host.pub").get_fingerprint()
    with pytest.raises(TransportError) as refused:
        await transport.reach()
    # ssh calls a host by its HostKeyAlias, without the port.
    place = "login" if node.way == "openssh" else f"[login]:{node.port}"
    assert str(refused.value) == (
        f"The host {place} is unknown: it shows the ED25519 key {fingerprint}, and known_hosts holds none "
        "for it. Compare the fingerprint with the one that the site publishes, then run `ssh cluster` once and accept "
        "it."
    )
    reply = await transport.run(Command(("true",)), PATIENCE_S)
    assert (reply.exit_code, reply.stderr.decode()) == (None, str(refused.value))
    node.known_hosts.write_text(f"login {(node.folder / 'host.pub').read_text()}")
    await transport.reach()
    await transport.close()


@pytest.mark.parametrize(
    "line", ["UserKnownHostsFile none", "StrictHostKeyChecking no", "UserKnownHostsFile /dev/null"]
)
@in_loop
async def test_no_line_of_ssh_config_makes_it_trust_an_unknown_host(start: Callable[..., Sshd], line: str) -> None:
    node = start()
    node.known_hosts.write_text("")
    config = Path(node.config())
    config.write_text(f"Host cluster\n  {line}\n{config.read_text()}")
    with pytest.raises(TransportError, match="is unknown"):
        await node.transport_of(config).reach()


@in_loop
async def test_a_changed_host_key_fails_closed(start: Callable[..., Sshd], tmp_path: Path) -> None:
    node = start()
    node.known_hosts.write_text(f"login {key(tmp_path / 'other')}")
    with pytest.raises(TransportError, match=r"The host key of .* changed: .* Somebody may listen in.*ssh-keygen -R"):
        await node.transport().reach()
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "kind"], check=True)
    node.known_hosts.write_text(f"login {(tmp_path / 'kind.pub').read_text()}")
    with pytest.raises(TransportError, match=r"The host key of .* changed: it shows the ED25519 key"):
        await node.transport().reach()


@in_loop
async def test_a_known_key_of_one_kind_is_enough_where_a_host_has_several(
    start: Callable[..., Sshd], tmp_path: Path
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", tmp_path / "second"], check=True)
    node = start(f"HostKey {tmp_path}/second")
    node.known_hosts.write_text(f"login {(tmp_path / 'second.pub').read_text()}")
    transport = node.transport()
    await transport.reach()
    await transport.close()


@in_loop
async def test_broken_lines_of_known_hosts_hide_no_good_one(start: Callable[..., Sshd]) -> None:
    node = start()
    node.known_hosts.write_text(f"@no-such-marker x y\nrubbish\n\xff\n{node.known_hosts.read_text()}")
    transport = node.transport()
    await transport.reach()
    await transport.close()


@in_loop
async def test_a_wrong_key_needs_login_and_is_not_tried_again_and_again(
    start: Callable[..., Sshd], tmp_path: Path
) -> None:
    node = start()
    proxy = Proxy(node.port)
    await proxy.start()
    node.authorized.write_text(key(tmp_path / "other"))
    transport = node.transport(proxy.port)
    with pytest.raises(NeedsLogin, match=r"far needs login: .*accepts none of your keys"):
        await transport.reach()
    assert transport.needs_login
    for _ in range(5):
        assert b"needs login" in (await transport.run(Command(("true",)), PATIENCE_S)).stderr
    assert proxy.connections == 1
    node.authorized.write_text((node.folder / "user.pub").read_text())
    await transport.reach()
    assert not transport.needs_login
    await transport.close()
    await proxy.stop()


@pytest.mark.parametrize("via", ["ProxyJump bastion", "ProxyCommand ssh -F {config} -W login:22 bastion"])
@in_loop
async def test_a_cluster_behind_a_bastion_is_reached_as_ssh_would(
    start: Callable[..., Sshd], tmp_path: Path, via: str
) -> None:
    bastion, node = start(name="bastion"), start(name="inner")
    hosts = Path(bastion.config(alias="bastion")).read_text().replace("Alias login", "Alias bastion")
    bastion.known_hosts.write_text(bastion.known_hosts.read_text().replace("login", "bastion"))
    config = tmp_path / "config"
    inner = Path(node.config(more=f"  {via}".format(config=config).replace("login:22", f"127.0.0.1:{node.port}")))
    config.write_text(f"Include {tmp_path}/hosts-*\n{inner.read_text()}")
    (tmp_path / "hosts-1").write_text(hosts)
    transport = node.transport_of(config)
    await check_all(transport, tmp_path)
    assert transport.connection.count == 1
    await transport.close()


@in_loop
async def test_the_bastions_key_is_checked_as_well(start: Callable[..., Sshd], tmp_path: Path) -> None:
    bastion, node = start(name="bastion"), start(name="inner")
    hosts = Path(bastion.config(alias="bastion")).read_text()
    bastion.known_hosts.write_text("")
    config = tmp_path / "config"
    config.write_text(hosts + Path(node.config(more="  ProxyJump bastion")).read_text())
    with pytest.raises(TransportError, match="is unknown"):
        await node.transport_of(config).reach()


@in_loop
async def test_agent_and_x11_are_never_forwarded(start: Callable[..., Sshd], tmp_path: Path) -> None:
    node = start("AllowAgentForwarding yes", "X11Forwarding yes")
    config = Path(node.config(more="  ForwardAgent yes\n  ForwardX11 yes\n  ForwardX11Trusted yes\n  SendEnv *"))
    transport = node.transport_of(config)
    await transport.reach()
    answer = await transport.connection.execute("env; true", b"", deadline_s=PATIENCE_S, most=1 << 20)
    names = {line.partition(b"=")[0] for line in answer.stdout.splitlines()}
    assert not names & {b"SSH_AUTH_SOCK", b"DISPLAY"}
    await transport.close()


@pytest.mark.parametrize(
    ("host", "sentence"),
    [("no-such-host.invalid", "no-such-host.invalid can't be reached: "), ("127.0.0.1:1", "can't be reached: ")],
)
@in_loop
async def test_a_wrong_host_is_told_in_a_sentence(host: str, sentence: str) -> None:
    connection = Connection(host, cluster="far", keepalive_s=5, channels=5, config=[])
    with pytest.raises(TransportError) as refused:
        await connection.connect()
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


# ---- what ssh_config says


@in_loop
async def test_match_in_ssh_config_holds_for_the_hosts_that_it_names(
    start: Callable[..., Sshd], tmp_path: Path
) -> None:
    node = start()
    config = tmp_path / "matching"
    # The first value holds: who is not matched would be sent to a port where nobody answers.
    config.write_text(
        f"Match host cluster\n  HostName 127.0.0.1\n  Port {node.port}\n  HostKeyAlias login\n"
        f"Match user nobody-at-all\n  Port 1\n"
        f"Match all\n  User {node.user}\n  IdentityFile {node.folder}/user\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {node.known_hosts}\n  Port 1\n"
    )
    config.chmod(0o600)
    transport = node.transport_of(config)
    await check_all(transport, tmp_path)
    await transport.close()


@in_loop
async def test_a_certificate_of_the_sites_authority_lets_its_key_in(start: Callable[..., Sshd], tmp_path: Path) -> None:
    authority = tmp_path / "authority"
    key(authority)
    trusted = Path(tempfile.mkdtemp(prefix="hpcflow-test-authority-"))  # sshd reads it as root or as its user
    try:
        shutil.copy(authority.with_suffix(".pub"), trusted / "authority.pub")
        node = start(f"TrustedUserCAKeys {trusted}/authority.pub", "AuthorizedKeysFile none")
        config = Path(node.config(more="  IdentitiesOnly yes\n"))
        with pytest.raises(NeedsLogin, match=r"accepts none of your keys|Permission denied"):
            await node.transport_of(config).reach()

        sign: list[str | Path] = [
            "ssh-keygen",
            "-q",
            "-s",
            authority,
            "-I",
            "ada",
            "-n",
            node.user,
            "-V",
            "+1h",
            node.folder / "user.pub",
        ]
        subprocess.run(sign, check=True)
        named = Path(node.config(more=f"  IdentitiesOnly yes\n  CertificateFile {node.folder}/user-cert.pub\n"))
        transport = node.transport_of(named)
        await check_all(transport, tmp_path)
        await transport.close()
    finally:
        shutil.rmtree(trusted)

"""Network `none`: what the agent starts gets no socket but of this machine's files."""

import platform
import subprocess
import sys

import pytest

from gastown.agent import offline
from tests.agent.containers import run_here
from tests.agent.town import Town

PROBE = """
import ctypes, errno, platform, socket, subprocess, sys
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, getattr(socket, "AF_VSOCK", 40)):
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
        print(family.real, "open")
    except OSError as error:
        print(errno.errorcode[error.errno], end=" ")
libc = ctypes.CDLL(None, use_errno=True)
print("ring", libc.syscall(425, 8, 0) < 0 and errno.errorcode[ctypes.get_errno()], end=" ")
here, there = socket.socketpair()
here.sendall(b"unix")
listener = socket.socket(socket.AF_UNIX)
listener.bind("s")
listener.listen()
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("s")
print(there.recv(9).decode())
"""
EXPECTED = "EACCES EACCES EACCES EACCES EACCES ring EACCES unix\n"


def test_an_agent_gets_no_socket_but_of_files(town: Town) -> None:
    """Neither it, nor what it starts, nor the set-up; git on files works, and the supervisor's own calls go on."""
    probe = f"cat > probe.py <<'E'\n{PROBE}\nE\n{sys.executable} probe.py; rm -f s probe.py"
    network = f'{sys.executable} -c "import socket; socket.socket(socket.AF_INET)"'
    refused = f"{network} 2>&1 | tail -1"
    script = (
        f"{probe}\n(setsid sh -c '{refused}')\ngit add -A; git commit -qm mine --allow-empty; git log --format=%s -1"
    )
    attempt, code = run_here(town, script, setup=refused, launch={"network": "none"})
    assert code == 0
    refusal = "PermissionError: [Errno 13] Permission denied\n"
    assert attempt.output.decode() == f"{refusal}{EXPECTED}{refusal}mine\n"
    assert attempt.done is not None
    assert attempt.done["outcome"] == "succeeded"


@pytest.mark.parametrize("network", ["", "bridge"])
def test_other_networks_confine_nobody(town: Town, network: str) -> None:
    script = f'{sys.executable} -c "import socket; socket.socket(socket.AF_INET); print(1)"'
    attempt, _ = run_here(town, script, launch={"network": network})
    assert attempt.output == b"1\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls of i386 programs are of x86_64 kernels")
def test_calls_of_another_architecture_are_refused() -> None:
    """A process may make system calls by the numbers of i386, where `socketcall` does what is denied here."""
    # mov eax, 20 (getpid); int 0x80; ret
    script = (
        "import ctypes, mmap, os;"
        "code = mmap.mmap(-1, 4096, prot=7); code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]));"
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)));"
        "print(call() == os.getpid() or call())"
    )
    command = [sys.executable, "-c", script]
    if subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout != "True\n":
        pytest.skip("this kernel has no calls of i386 programs")
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=offline.confinement(), timeout=120)
    assert done.stdout == "-13\n", done.stderr


def test_another_processor_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(offline.CannotConfine, match="vax"):
        offline.confinement()

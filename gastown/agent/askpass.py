"""Git's credential helper: `askpass.py --file PATH | --socket PATH get`. A script by itself: git starts it, not we.

It says the user and the token that it finds in the file, or is told on the socket of the supervisor.
"""

import os
import socket
import sys

TIMEOUT_S = 10.0
NOBODY = "x-access-token"  # what hosts that look at the token alone are told as user


def main(kind: str, place: str, action: str) -> int:
    asked = dict(line.partition("=")[::2] for line in sys.stdin.read().splitlines())
    if action != "get":
        return 0  # there is nothing to remember, and nothing to forget
    try:
        said = _from_file(place) if kind == "--file" else _from_socket(place)
    except OSError as error:
        sys.stderr.write(f"the token for git is not to be had: {error}\n")
        return 1
    user, colon, token = said.strip().partition(":")
    if not colon:
        user, token = asked.get("username") or NOBODY, user
    if token:
        sys.stdout.write(f"username={user}\npassword={token}\n")
    return 0


def _from_file(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline()


def _from_socket(path: str) -> str:
    os.chdir(os.path.dirname(path))  # a socket's path may hold no more than some hundred bytes
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(os.path.basename(path))
        parts = []
        while part := connection.recv(4096):
            parts.append(part)
    return b"".join(parts).decode()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))

"""A door to a host where there is no sshd: runs a program there, its input and output over a TCP connection.

serve BOOK NAME ADDRESS   waits for callers at ADDRESS and writes where that is to BOOK/NAME
call BOOK NAME WORD...    runs WORD... at the door whose place is in BOOK/NAME

Whoever reaches a door can run anything behind it, so it is only for networks without strangers.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading


def read_line(connection):
    """Byte by byte: what follows belongs to the program."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            return None
        line += byte
    return line


def serve(book, name, address):
    with socket.create_server((address, 0)) as door:
        place = pathlib.Path(book) / f".{name}.new"
        place.write_text(json.dumps(door.getsockname()))
        place.rename(pathlib.Path(book) / name)
        while True:
            caller, _ = door.accept()
            with caller:
                line = read_line(caller)
                if line:
                    subprocess.Popen(json.loads(line), stdin=caller, stdout=caller)


def call(book, name, words):
    try:
        place = json.loads((pathlib.Path(book) / name).read_text())
        connection = socket.create_connection(place, timeout=3)
    except OSError as error:
        sys.exit(f"cannot reach the door of {name}: {error}")
    connection.settimeout(None)
    connection.sendall(json.dumps(words).encode() + b"\n")

    def send():
        while data := os.read(0, 1 << 16):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()
    while data := connection.recv(1 << 16):
        os.write(1, data)


if __name__ == "__main__":
    what, book, name, *rest = sys.argv[1:]
    if what == "serve":
        serve(book, name, *rest)
    else:
        call(book, name, rest)

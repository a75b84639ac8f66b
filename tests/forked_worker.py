"""Stands for Ray's script that sets a worker up: has the worker forked by the copy of the tests' process.

Ray gives it the worker's program, and options of both. It ends as the worker does.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path


def main() -> int:
    """Ask for the worker, and wait for its end."""
    own = ("--serialized-runtime-env-context=", "--language=")
    interpreter = ("-s", "-S")  # Ray passes them on; here it is the copy that has them
    ended, status = os.pipe()
    asked = {
        "arguments": [word for word in sys.argv[1:] if word not in interpreter and not word.startswith(own)],
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as template:
        template.connect(b"\0" + os.environ["NAS_TESTS_TEMPLATE"].encode())
        descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in (1, 2, status))
        template.sendmsg([json.dumps(asked).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    os.close(status)
    with os.fdopen(ended) as told:
        worker = int(told.readline())
        signal.signal(signal.SIGTERM, lambda number, frame: os.kill(worker, number))
        return abs(int(told.readline()))


if __name__ == "__main__":
    sys.exit(main())

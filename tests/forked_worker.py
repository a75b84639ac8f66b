"""Replaces Ray's script that starts a worker, so that the worker is forked from the template of `forked.py`.

Ray passes the worker's program, options of the worker, and options of this script. The script ends when the worker
ends. Its exit code is that of the worker or, if a signal ended the worker, the number of the signal.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path


def main() -> int:
    """Ask the template for the worker, and return its exit code once it has ended."""
    own_options = ("--serialized-runtime-env-context=", "--language=")
    interpreter_options = ("-s", "-S")  # Ray passes them on, but they have no effect on a forked process
    reading, status = os.pipe()
    request = {
        "arguments": [
            word for word in sys.argv[1:] if word not in interpreter_options and not word.startswith(own_options)
        ],
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as template:
        template.connect(b"\0" + os.environ["NAS_TESTS_TEMPLATE"].encode())
        descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in (1, 2, status))
        template.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    os.close(status)
    with os.fdopen(reading) as answer:
        worker = int(answer.readline())
        signal.signal(signal.SIGTERM, lambda number, frame: os.kill(worker, number))
        return abs(int(answer.readline()))


if __name__ == "__main__":
    sys.exit(main())

"""A worker process that builds kernels: `python -m lepton_compile.codegen.worker`.

It reads requests from its standard input and answers on its standard output, each message being a length (8 bytes,
little-endian) and a JSON text. The first answer says that it is ready. It ends when its input closes or its parent is
gone.
"""

from __future__ import annotations

import json
import os
import select
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<Q")


def write_message(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Send one message."""
    data = json.dumps(message).encode()
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_message(stream: BinaryIO) -> dict[str, Any] | None:
    """Receive one message; None when the stream ends before or inside it."""
    header = _read_exactly(stream, _LENGTH.size)
    data = None if header is None else _read_exactly(stream, _LENGTH.unpack(header)[0])
    if data is None:
        return None
    message: dict[str, Any] = json.loads(data)
    return message


def _read_exactly(stream: BinaryIO, size: int) -> bytes | None:
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _request_waits(stream: BinaryIO, parent: int) -> bool:
    """Block until there is something to read; False once the parent has died, whose forks may keep the pipe open."""
    while os.getppid() == parent:
        if select.select([stream], [], [], 5.0)[0]:
            return True
    return False


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    parent = os.getppid()
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what TVM or LLVM print must not get between the messages

    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM would import it where it is installed, in a second

    import tvm

    from lepton_compile.codegen.kernels import build_object

    write_message(answers, {"error": None})
    while _request_waits(requests, parent):
        request = read_message(requests)
        if request is None:
            return
        error = None
        try:
            build_object(
                tvm.ir.load_json(request["function"]),
                request["symbol"],
                request["target"],
                Path(request["path"]),
                dimensions=request["dimensions"],
                noalias=request["noalias"],
                small=request["small"],
            )
        except Exception as problem:  # whatever is wrong with the kernel is for the parent to report
            error = f"{type(problem).__name__}: {problem}"
        write_message(answers, {"error": error})


if __name__ == "__main__":
    main()

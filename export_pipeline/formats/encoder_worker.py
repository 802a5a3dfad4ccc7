"""An encoder process: takes pieces of BSON out of mailboxes and leaves their text there. ``encoder_pool`` starts it.

It imports the encoder and little else, so that it starts at once and takes little memory.
"""

import json
import os
import socket
import sys
from typing import Any

from export_pipeline.formats.extended_json import EncodingError, encode_batch

READY = b"ready"
LARGEST_MESSAGE = 1 << 16
"""Messages are names and numbers; what they are about is in the mailbox."""


def serve(line: socket.socket) -> None:
    """Carry out orders until the other end of ``line`` is closed, or gone with its process."""
    try:
        line.send(READY)
        while order := line.recv(LARGEST_MESSAGE):
            line.send(json.dumps(_carry_out(**json.loads(order))).encode())
    except ConnectionError:
        pass  # the owner went while an order was carried out


def _carry_out(mailbox: int, size: int, **how: Any) -> dict[str, Any]:
    """Encode the ``size`` bytes in ``mailbox``; reply with what is there now, or why it cannot be."""
    try:
        encoded = encode_batch(os.pread(mailbox, size, 0), how["collection"], how["mode"], how["separator"].encode())
        put(mailbox, encoded.data)
    except EncodingError as error:
        return {"refused": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is fails the export over there
        return {"failed": type(error).__name__}  # its text might hold stored values
    return {"size": len(encoded.data), "documents": encoded.documents, "renamed": encoded.renamed}


def put(mailbox: int, data: bytes) -> None:
    """Write ``data`` to the beginning of a mailbox, all of it."""
    left, position = memoryview(data), 0
    while left:
        written = os.pwrite(mailbox, left, position)
        left, position = left[written:], position + written


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))

"""Bytes as text, compressed: what passes keep of weights in their settings, which are JSON values."""

from __future__ import annotations

import base64
import zlib


def packed(content: bytes) -> str:
    """Bytes as text."""
    # There is no pattern in weights but how frequent each byte is, and looking for one takes long.
    packing = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return base64.b64encode(packing.compress(content) + packing.flush()).decode()


def unpacked(text: str, what: str) -> bytes:
    """The bytes that `packed` was given.

    Raises:
        ValueError: The text is none; says what cannot be read.
    """
    try:
        return zlib.decompress(base64.b64decode(text, validate=True))
    except (ValueError, zlib.error) as error:
        raise ValueError(f"{what} cannot be read: {error}") from error

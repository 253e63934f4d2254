"""Blosc chunks of a zarr store are checked before they are decompressed.

The library that decompresses them trusts their header: a damaged one makes it write past its
own memory, and the program ends without a word. The layout is that of version 2 of the format:
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

__all__ = ["guard"]

HEADER, MEMCPYED = struct.Struct("<4B3I"), 0x2


@cache
def guard() -> None:
    """Let numcodecs check the chunks that it decompresses, in this process from now on."""
    import numcodecs

    class Checked(numcodecs.Blosc):
        codec_id = "blosc"

        def decode(self, buf: Any, out: Any = None) -> Any:
            if not is_sound(bytes(buf)):
                raise ValueError("a chunk is damaged")
            return super().decode(buf, out)

    numcodecs.register_codec(Checked)


def is_sound(chunk: bytes) -> bool:
    """Say whether the header of a chunk, and the places of its blocks, fit its length."""
    if len(chunk) < HEADER.size:
        return False
    version, _, flags, size, length, block, compressed = HEADER.unpack_from(chunk)
    if version != 2 or size < 1 or compressed != len(chunk):
        return False
    if flags & MEMCPYED:
        return length + HEADER.size == compressed
    if length == 0:
        return True
    if not 0 < block <= length:
        return False
    blocks = -(-length // block)
    first = HEADER.size + 4 * blocks
    if first > compressed:
        return False
    places = struct.unpack_from(f"<{blocks}I", chunk, HEADER.size)
    return all(first <= place <= compressed - 4 for place in places)

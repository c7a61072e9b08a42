"""How the process that draws and the one that runs UMAP talk over two pipes.

A frame is a header (kind, number of the request, size of the body in bytes) and a body. Arrays
travel as little-endian float64 in C order, behind what tells their shape: nothing is pickled.

======== ======================================================
READY    empty: UMAP has compiled
REQUEST  random state, d (int64 each), latents ``(n, d)``
POINTS   coordinates ``(n, 2)``
ERROR    what went wrong, UTF-8; request 0 is the start of UMAP
======== ======================================================
"""

from __future__ import annotations

import struct
from io import RawIOBase
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

READY, REQUEST, POINTS, ERROR = range(4)
START = 0

_HEADER = struct.Struct("<BIQ")
_SHAPE = struct.Struct("<qq")


class Frame(NamedTuple):
    """One message: its kind, the number of the request that it belongs to, and what it says."""

    kind: int
    request: int
    body: bytes = b""


def write_frame(pipe: RawIOBase, frame: Frame) -> None:
    """Write a frame to an unbuffered pipe, which may take it piece by piece."""
    left = memoryview(_HEADER.pack(frame.kind, frame.request, len(frame.body)) + frame.body)
    while left:
        left = left[pipe.write(left) or 0 :]


def read_frame(pipe: RawIOBase) -> Frame | None:
    """Read a frame; None where the pipe ends, be it in the middle of one."""
    header = _read(pipe, _HEADER.size)
    if header is None:
        return None
    kind, request, size = _HEADER.unpack(header)
    body = _read(pipe, size)
    return None if body is None else Frame(kind, request, body)


def pack_request(latent: FloatArray, random_state: int) -> bytes:
    """Latents ``(n, d)`` and a seed as the body of a REQUEST."""
    return _SHAPE.pack(random_state, latent.shape[1]) + _pack(latent)


def unpack_request(body: bytes) -> tuple[FloatArray, int]:
    """The reverse of `pack_request`."""
    random_state, n_columns = _SHAPE.unpack_from(body)
    return _unpack(body[_SHAPE.size :], n_columns), random_state


def pack_points(points: FloatArray) -> bytes:
    """Coordinates ``(n, 2)`` as the body of POINTS."""
    return _pack(points)


def unpack_points(body: bytes) -> FloatArray:
    """The reverse of `pack_points`."""
    return _unpack(body, 2)


def _pack(array: FloatArray) -> bytes:
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def _unpack(body: bytes, n_columns: int) -> FloatArray:
    return np.frombuffer(body, dtype="<f8").reshape(-1, n_columns).astype(np.float64)


def _read(pipe: RawIOBase, size: int) -> bytes | None:
    pieces = bytearray()
    while len(pieces) < size:
        piece = pipe.read(size - len(pieces))
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)

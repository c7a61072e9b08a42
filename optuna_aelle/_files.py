"""Files of this package: written whole or not at all, and read without trusting them.

All are ``.npz`` archives of plain arrays, with their metadata as JSON; nothing in them is ever
unpickled or evaluated, and nothing is unpacked before it is known how large it will be.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path
from typing import IO
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

# A few megabytes are usual. A file of this size may claim to hold any number of zeros.
_MOST_BYTES = 2 * 2**30
# What is not made of numbers, text or truth values is none of ours.
_KINDS = "biufU"
# Whatever a damaged file may lead to on its way through what was written for sound ones.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its place once all is written, safely on the disk.

    Whoever reads it meanwhile has the old one; where writing fails, that one stays.

    Raises:
        OSError: It cannot be written; nothing has changed.

    Example:
        >>> with written_whole("greeting.txt") as file:
        ...     file.write(b"hello")
        >>> Path("greeting.txt").read_text()
        'hello'
    """
    # The file that a link leads to, and not the link.
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        # A pipe or a device cannot be replaced; a folder is refused.
        with open(target, "wb") as device:
            yield device
        return
    # Without the target's name, which may be as long as a name can be.
    name = target.with_name(f".{uuid.uuid4().hex}.part")
    # As `open` would, with the permissions that the process gives to new files.
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        with suppress(FileNotFoundError):
            os.chmod(name, stat.S_IMODE(target.stat().st_mode))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    with suppress(OSError):  # not every file system knows this of folders
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_arrays(
    path: str | os.PathLike[str], metadata: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write one ``.npz`` file, at once or not at all.

    Raises:
        OSError: It cannot be written; what was there before still is.
    """
    with written_whole(path) as file:
        np.savez_compressed(file, metadata=np.array(json.dumps(metadata)), **arrays)


@contextmanager
def damage_told(path: Any, writer: str) -> Iterator[None]:
    """What fails within is told as damage of a file, with what was expected of it.

    Args:
        path: Of the file.
        writer: The method that would have written it.

    Raises:
        ValueError: Anything but a file that cannot be opened.

    Example:
        >>> with damage_told("mine.npz", "RecordedTrials.save"):
        ...     raise KeyError("steps")
        Traceback (most recent call last):
        ...
        ValueError: Expected a file written by RecordedTrials.save, but 'mine.npz' is damaged ...
    """
    try:
        yield
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}".split("\n", 1)[0][:200]
        raise ValueError(
            f"Expected a file written by {writer}, but {str(path)!r} is damaged or of another "
            f"kind ({reason}). Save it again."
        ) from error


def read_arrays(path: Any) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a file and its metadata; to be called within `damage_told`.

    Raises:
        OSError: There is none, or it cannot be opened.
        ValueError: It is no archive of plain arrays, or would be too large to unpack.
    """
    if isinstance(path, str | os.PathLike) and not stat.S_ISREG(os.stat(path).st_mode):
        # Opening a pipe would wait for somebody to write.
        raise ValueError("it is no regular file")
    with path.open("rb") if hasattr(path, "open") else open(path, "rb") as file:
        try:
            arrays = _unpack(file)
        except OSError as error:  # from places in the file where nothing is
            raise ValueError(str(error)) from error
    text = arrays.pop("metadata")
    if text.dtype.kind != "U" or text.shape != ():
        raise ValueError("its metadata is no text")
    # Not by `str`, which takes whatever bytes numpy was given for characters.
    codec = "utf-32-be" if text.dtype.byteorder == ">" else "utf-32-le"
    metadata = json.loads(text.tobytes().decode(codec).rstrip("\0"))
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is no object")
    return arrays, metadata


def _unpack(file: IO[bytes]) -> Arrays:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if sum(member.file_size for member in members.values()) > _MOST_BYTES:
            raise ValueError(f"it would hold more than {_MOST_BYTES >> 30} GiB")
        return {
            name.removesuffix(".npy"): _read_array(archive, member)
            for name, member in members.items()
        }


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array, once its own header agrees with what the archive says of its size."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        # Headers beyond 64 KB, or with names of fields, are none of ours.
        if version != (1, 0):
            raise ValueError(f"{member.filename!r} has a header of version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    # Of what takes no bytes there might be any number.
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise ValueError(f"{member.filename!r} holds {dtype}, not numbers or text")
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size > member.file_size:
        raise ValueError(f"{member.filename!r} is cut off")
    with archive.open(member) as stream:
        array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def check_arrays(
    arrays: Mapping[str, npt.NDArray[Any]],
    expected: Mapping[str, tuple[str, tuple[int | None, ...]]],
) -> None:
    """Whether arrays are there, of one of some kinds and of a shape.

    Args:
        arrays: By name.
        expected: For each name numpy's letters of the kinds, and the shape; None for any length.

    Raises:
        ValueError: One is not.

    Example:
        >>> check_arrays({"steps": np.arange(3)}, {"steps": ("iu", (None,))})
    """
    for name, (kinds, shape) in expected.items():
        if name not in arrays:
            raise ValueError(f"{name!r} is missing")
        array = arrays[name]
        fits = len(array.shape) == len(shape) and all(
            want is None or have == want for have, want in zip(array.shape, shape, strict=True)
        )
        if array.dtype.kind not in kinds or not fits:
            raise ValueError(
                f"{name!r} has shape {array.shape} and type {array.dtype}, not {shape}, {kinds}"
            )

"""Open plain and packed files as streams of bytes, and say what is wrong with a damaged one."""

import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from braidlm.errors import InputError

PACKED = ("", ".gz", ".xz", ".zst")
_ZSTD_CHUNK_BYTES = 1 << 10  # unpacked, 1 KiB is at most 32 MiB


def open_bytes(file: Path) -> BinaryIO | gzip.GzipFile | lzma.LZMAFile:
    """Return the content of a file, unpacked while it is read.

    Raises:
        InputError: .zst without the package that reads it.
        OSError: the file cannot be opened.
    """
    if file.suffix == ".gz":
        return gzip.open(file, "rb")
    if file.suffix == ".xz":
        return lzma.open(file, "rb")
    if file.suffix == ".zst":
        # The raw stream gives one small piece at a time; lines want a buffer before it.
        return io.BufferedReader(_ZstdFile(file), 1 << 17)  # type: ignore[return-value]
    return file.open("rb")


def broken() -> tuple[type[BaseException], ...]:
    """Return what reading a damaged file raises."""
    return (OSError, EOFError, zlib.error, lzma.LZMAError, *_zstd_errors())


def why(error: BaseException) -> str:
    """Return what an error of the system or of a decompressor says."""
    reason = getattr(error, "strerror", None) or str(error)
    return reason or type(error).__name__


def needs(package: str, extra: str, file: str) -> InputError:
    """Return the refusal of a file whose package is not installed."""
    return InputError(
        f"{file} needs the package '{package}', which is not installed: "
        f"pip install 'braidlm[{extra}]'"
    )


def _zstd_errors() -> tuple[type[BaseException], ...]:
    import sys

    module = sys.modules.get("zstandard")  # not imported: no .zst file was opened
    return () if module is None else (module.ZstdError,)


class _ZstdFile(io.RawIOBase):
    """Frames of zstd one after the other; one that is cut short is an error, not an end."""

    def __init__(self, file: Path):
        try:
            import zstandard
        except ImportError:
            raise needs("zstandard", "data", f"corpus file {file}") from None
        self._inner: Any = zstandard.ZstdDecompressor()
        self._source = file.open("rb")
        self._frame: Any = None
        self._packed, self._plain = b"", memoryview(b"")
        self._frames = 0

    def readable(self) -> bool:
        """Tell that this stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the front; return how many bytes, 0 at the end.

        Raises:
            EOFError: the file ends inside a frame, or holds none.
        """
        while not self._plain:
            if not self._advance():
                return 0
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def close(self) -> None:
        """Close the file too."""
        self._source.close()
        super().close()

    def _advance(self) -> bool:
        """Unpack one more piece; tell whether there was any."""
        self._packed = self._packed or self._source.read(_ZSTD_CHUNK_BYTES)
        if not self._packed:
            if self._frame is not None or not self._frames:
                raise EOFError("Compressed file ended before the end of a zstd frame")
            return False
        if self._frame is None:
            self._frame = self._inner.decompressobj()
        self._plain = memoryview(self._frame.decompress(self._packed))
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
            self._frames += 1
        return True

"""Files that come back as a few parts of limited size: a tar stream that only grows.

What was written when a run was cut off is whole: a part is never written again.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tools.gpu import MOST_PARTS, PART_BYTES, GpuError

PATTERN = "weights.{:02d}"


class Parts:
    """Appends files to ``weights.00``, ``weights.01`` ... of a folder."""

    def __init__(self, folder: Path, part_bytes: int = PART_BYTES, most: int = MOST_PARTS) -> None:
        self.folder, self.part_bytes, self.most = folder, part_bytes, most
        self.written = sum(path.stat().st_size for path in _parts(folder))

    def append(self, name: str, content: bytes) -> None:
        """Add a file. Raises GpuError, and writes nothing, where there is no room left."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        block = tarfile.BLOCKSIZE
        data = info.tobuf() + content + bytes(-len(content) % block)
        room = self.most * self.part_bytes - self.written
        if len(data) > room:
            raise GpuError(f"{name}: {len(data)} bytes, but the parts have room for {room}")
        rest = memoryview(data)
        while rest:
            number, filled = divmod(self.written, self.part_bytes)
            piece = rest[: self.part_bytes - filled]
            with open(self.folder / PATTERN.format(number), "ab") as part:
                part.write(piece)
            self.written += len(piece)
            rest = rest[len(piece) :]


def read_parts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file that arrived whole. Raises GpuError behind those where the stream is cut."""
    parts = _parts(folder)
    for number, path in enumerate(parts):
        if path.name != PATTERN.format(number):
            raise GpuError(f"{folder}: {PATTERN.format(number)} is missing before {path.name}")
    stream = io.BytesIO(b"".join(path.read_bytes() for path in parts))
    if not parts:
        return
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                file = archive.extractfile(member)
                content = file.read() if file else b""
                if len(content) != member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield member.name, content
    except tarfile.ReadError as error:
        raise GpuError(f"{folder}: the weights are cut off: {error}") from error


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(PATTERN.split("{")[0] + "[0-9]*"))

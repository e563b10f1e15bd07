"""Files that are there whole or not at all."""

import os
import tempfile


def write_whole(path: str, content: bytes) -> None:
    """Write a file by way of a temporary one beside it, which is on the disk before it is renamed.

    Raises OSError; then there is what was there before, and nothing else.
    """
    folder, name = os.path.split(path)
    handle, partial = tempfile.mkstemp(
        prefix="." + name + ".", suffix=".partial", dir=folder or "."
    )
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise

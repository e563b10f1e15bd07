"""Some hundred damaged bags: what can be read and a line for the rest, or an error of one line."""

import resource
import shutil
import sqlite3
import time
from pathlib import Path
from random import Random

import pytest
from support.small_bags import IMAGE, TRUTH, drive, write_bag

from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation.bags import open_bag, unpacking
from segmentation_node.evaluation.frame import Frame, Problem

SENT = drive(12)
MOST_SECONDS = 60  # a mutant takes 0.1 s; this is for one that does not end
MOST_GROWTH_KB = 1 << 20


def damaged(content, random):
    """The bytes with one kind of damage."""
    content, size = bytearray(content), len(content)
    place = random.randrange(size)
    kind = random.choice(["flip", "zero", "cut", "insert", "start", "end", "number", "move"])
    if kind == "flip":
        for _ in range(random.randrange(1, 200)):
            content[random.randrange(size)] ^= 1 << random.randrange(8)
    elif kind == "zero":
        length = min(random.randrange(1, 20000), size - place)
        content[place : place + length] = bytes(length)
    elif kind == "cut":
        del content[place:]
    elif kind == "insert":
        content[place:place] = bytes(random.randrange(1, 5000))
    elif kind == "number":  # a length, a count, an offset
        value = random.choice([0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1])
        near = random.choice([size, min(size, 4096)])
        at = random.randrange(near)
        content[at : at + 8] = value.to_bytes(8, random.choice(["big", "little"]))
    elif kind == "move":
        length = random.randrange(1, 5000)
        content[place : place + length] = content[:length]
    else:
        for _ in range(5):
            near = random.randrange(min(size, 3000))
            content[near if kind == "start" else size - 1 - near] = random.randrange(256)
    return bytes(content)


def with_log(folder):
    """A database of the first two frames, and a log of all."""
    bag = write_bag(folder / "log", "sqlite3", SENT[:4])
    (bag / "metadata.yaml").unlink()
    writer = sqlite3.connect(str(bag / "log.db3"), isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    ids = dict(writer.execute("SELECT name, id FROM topics"))
    for topic, _, time_ns, data in SENT[4:]:
        row = (ids[topic], time_ns, data)
        writer.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    left = Path(shutil.copytree(bag, folder / "left"))
    writer.close()
    return left


def packed(folder):
    """A file that the recorder packed as a whole, without metadata."""
    bag = write_bag(folder / "packed", "mcap", SENT)
    file = bag / "packed.mcap"
    (bag / "packed.mcap.zstd").write_bytes(unpacking.zstd.compress(file.read_bytes()))
    file.unlink()
    return bag


MAKERS = {
    "mcap": (lambda folder: write_bag(folder / "mcap", "mcap", SENT), "*.mcap"),
    "zstd": (lambda folder: write_bag(folder / "zstd", "zstd", SENT), "*.mcap"),
    "sqlite3": (lambda folder: write_bag(folder / "sqlite3", "sqlite3", SENT), "*.db3"),
    "log": (with_log, "*-wal"),
    "packed": (packed, "*.zstd"),
    "metadata": (lambda folder: write_bag(folder / "meta", "mcap", SENT), "metadata.yaml"),
}


def read(bag):
    """Messages and damage; the frames are decoded as well, and add up."""
    with open_bag(str(bag)) as opened:
        messages = [tuple(message) for message in opened.messages()]
        if {IMAGE, TRUTH} <= {topic.name for topic in opened.topics}:
            images = sum(topic == IMAGE for topic, *_ in messages)
            items = list(opened.frames(opened.choose_topics(IMAGE, TRUTH, "")))
            assert all(isinstance(item, (Frame, Problem)) for item in items)
            # An image without a truth, a truth without an image, or both: each once.
            assert images <= len(items) <= len(messages)
        return messages, opened.damage


def check_mutants(kind, folder, seed, count):
    """Read so many mutants; how many gave all, some or no messages."""
    make, pattern = MAKERS[kind]
    bag = make(folder)
    (path,) = bag.glob(pattern)
    whole, random = path.read_bytes(), Random(seed)
    found = {"all": 0, "some": 0, "none": 0}
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        path.write_bytes(damaged(whole, random))
        start_s = time.process_time()
        try:
            messages, damage = read(bag)
        except SegmentationError as error:
            assert "\n" not in str(error) and len(str(error)) < 3000
            found["none"] += 1
        else:
            assert len(messages) == len(SENT) or damage
            assert all("\n" not in line for line in damage)
            found["all" if len(messages) == len(SENT) else "some"] += 1
        assert time.process_time() - start_s < MOST_SECONDS
    growth_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert growth_kb < MOST_GROWTH_KB
    return found


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_mutants_end_in_a_line_or_what_can_be_read(kind, tmp_path):
    found = check_mutants(kind, tmp_path, 2026, 50)
    assert found["all"] + found["some"] > 20

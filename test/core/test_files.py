"""What a user named is replaced whole, and only where it is ours. Python 3.6 reads this."""

import ast
import fcntl
import itertools
import os
import signal
import sys

import pytest
from support.core.real_data import PROJECT

from segmentation_node import files
from segmentation_node.errors import OutputError
from segmentation_node.files import Layout, new_file, new_folder, plain_name, write_whole

LAYOUT = Layout("a test's folder", ("marker", "data", "maps/*.png"), "marker", "of the test")
MOVES = {"rmtree", "unlink", "rename", "renames", "rmdir", "removedirs", "remove", "replace"}


def fill(folder, data):
    os.makedirs(os.path.join(folder, "maps"))
    for name, text in (("marker", "of the test"), ("data", data), ("maps/1.png", "")):
        with open(os.path.join(folder, name), "w") as out:
            out.write(text)


def make(path, data, **options):
    with new_folder(str(path), LAYOUT, **options) as new:
        fill(new, data)


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(path, *fragments, **options):
    before = tree(path.parent)
    with pytest.raises(OutputError) as caught:
        make(path, "new", **options)
    message = str(caught.value)
    assert "\n" not in message and all(fragment in message for fragment in fragments)
    assert tree(path.parent) == before


def test_a_folder_of_ours_is_replaced(tmp_path):
    for data in ("old", "new"):
        make(tmp_path / "out", data, replace=data == "new")
        assert (tmp_path / "out" / "data").read_text() == data
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["notes.txt", "maps/notes.txt", "deep/er/notes.txt"])
def test_a_folder_that_holds_another_file_is_left_alone(tmp_path, name):
    make(tmp_path / "out", "old")
    other = tmp_path / "out" / name
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_text("mine")
    refused(tmp_path / "out", name, "left alone")


def test_links_and_empty_folders_in_it_are_others(tmp_path):
    make(tmp_path / "out", "old")
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    refused(tmp_path / "out", "holds link")
    (tmp_path / "out" / "link").unlink()
    (tmp_path / "out" / "empty").mkdir()
    refused(tmp_path / "out", "holds empty")


def test_without_our_mark_it_is_anothers(tmp_path):
    make(tmp_path / "out", "old")
    (tmp_path / "out" / "marker").write_text("of somebody else")
    refused(tmp_path / "out", "marker", "another's")
    (tmp_path / "out" / "marker").unlink()
    refused(tmp_path / "out", "marker", "missing")


def test_a_source_or_its_parent_is_left_alone_by_whatever_link(tmp_path):
    make(tmp_path / "out", "old")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for source in ("out", "out/maps", "out/data", "link/maps"):
        refused(tmp_path / "out", "is read", sources=[str(tmp_path / source)])
        refused(tmp_path / "link", "is read", sources=[str(tmp_path / source)])
    make(tmp_path / "out", "new", sources=["", str(tmp_path)])  # inside a source


def test_a_block_that_fails_leaves_the_old_one(tmp_path):
    make(tmp_path / "out", "old")
    with pytest.raises(ValueError), new_folder(str(tmp_path / "out"), LAYOUT) as new:
        fill(new, "half")
        raise ValueError
    assert tree(tmp_path) == {"out/marker": "of the test", "out/data": "old", "out/maps/1.png": ""}


def test_a_folder_that_was_not_made_leaves_the_old_one(tmp_path):
    make(tmp_path / "out", "old")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="cannot be written"), new_folder(
        str(tmp_path / "out"), LAYOUT
    ):
        pass
    assert tree(tmp_path) == before


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    refused(tmp_path / "out", "is a file, expected a folder")


def make_until(step, path):
    """In a process that is killed before its so manieth change on the disk; its wait status."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    calls = itertools.count(1)

    def counted(do):
        def call(*arguments, **options):
            if next(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*arguments, **options)

        return call

    try:
        for name in ("rename", "unlink", "rmdir", "makedirs", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        make(path, "new")
        os._exit(0)
    finally:
        os._exit(1)


def test_a_kill_at_any_step_leaves_one_of_them_and_one_can_run_again(tmp_path):
    """Killed before the first, second, ... change on the disk, until a run comes through."""
    for step in range(1, 60):
        out = tmp_path / str(step) / "out"
        make(out, "old")
        status = make_until(step, out)
        assert status in (0, signal.SIGKILL)
        if out.exists():
            assert (out / "data").read_text() in ("old", "new")
        else:
            aside = out.parent / ".out.partial"
            assert (aside / "out.old" / "data").read_text() == "old"
            with pytest.raises(OutputError):  # it was taken back first
                make(out, "newest", replace=False)
            assert (out / "data").read_text() == "old"
        make(out, "newest")
        assert (out / "data").read_text() == "newest"
        assert [path.name for path in out.parent.iterdir()] == ["out"]
        if status == 0:
            break
    assert status == 0 and step > 10


def test_a_run_that_still_writes_is_not_disturbed(tmp_path):
    with new_folder(str(tmp_path / "out"), LAYOUT) as new:
        fill(new, "first")
        refused(tmp_path / "out", "another run is writing")
    assert (tmp_path / "out" / "data").read_text() == "first"


def test_a_folder_of_the_stages_name_is_not_taken_for_it(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "mine").write_text("mine")
    refused(tmp_path / "out", "move it away")


@pytest.mark.parametrize("name", ["", ".", "..", "../esc", "a/b", "/a", ".hidden", "a\0b", "a\\b"])
def test_a_name_is_one_plain_component(name):
    with pytest.raises(OutputError):
        plain_name(name)
    assert plain_name("enet_camvid-2.1") == "enet_camvid-2.1"


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "figures.json"
    write_whole(str(path), "old")
    link = tmp_path / "link.json"
    link.symlink_to(path)
    write_whole(str(link), b"new")
    assert link.is_symlink() and path.read_text() == "new"
    with pytest.raises(OutputError, match="cannot be written .No space left"):
        with new_file(str(path)) as partial, open(partial, "w") as out:
            out.write("half")
            raise OSError(28, "No space left on device")
    assert [item.name for item in path.parent.iterdir()] == ["figures.json"]
    (path.parent / ".figures.json.partial").write_text("of a killed run")
    write_whole(str(path), "newest")
    assert tree(path.parent) == {"figures.json": "newest"}


def test_a_name_that_is_not_utf8_is_spelled_out_in_a_file(tmp_path):
    write_whole(str(tmp_path / "page"), "shot " + os.fsdecode(b"\xff\xc3\xa9.png"))
    assert (tmp_path / "page").read_bytes() == b"shot \\udcff\xc3\xa9.png"


def test_one_run_at_a_time_writes_a_file_and_devices_are_left_alone(tmp_path):
    with open(str(tmp_path / ".a.partial"), "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run is writing"):
            write_whole(str(tmp_path / "a"), "")
    os.mkfifo(str(tmp_path / "pipe"))  # as /dev/null, which a fault would replace for everybody
    for path in (str(tmp_path / "pipe"), str(tmp_path)):
        with pytest.raises(OutputError, match="is no file"):
            write_whole(path, "")


def test_a_file_without_our_mark_is_anothers(tmp_path):
    path = tmp_path / "a"
    files.check_file(str(path), "a report", "mark")
    for text in ("", "our mark"):
        path.write_text(text)
        files.check_file(str(path), "a report", "mark")
    path.write_text("notes")
    with pytest.raises(OutputError, match="a is not a report"):
        files.check_file(str(path), "a report", "mark")


def moves(tree):
    """Calls and imports by which a file or folder is removed or renamed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield from (item.name for item in node.names if item.name in MOVES | {"move"})
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, of = node.func.attr, node.func.value
        if isinstance(of, ast.Name) and of.id in ("os", "shutil"):
            if name in MOVES or name == "move":
                yield name
        elif name in MOVES - {"replace", "remove"}:
            yield name
        elif name == "replace" and len(node.args) == 1 and not node.keywords:
            yield name  # pathlib's; that of str takes two


@pytest.mark.parametrize("folder", ["segmentation_node", "training", "benchmarks"])
def test_nothing_else_removes_or_renames(folder):
    found = []
    for parent, _, names in os.walk(os.path.join(PROJECT, folder)):
        for path in [os.path.join(parent, name) for name in names if name.endswith(".py")]:
            with open(path, "rb") as source:
                try:
                    tree = ast.parse(source.read(), path)
                except SyntaxError:  # a newer Python's
                    assert sys.version_info < (3, 11)
                    continue
            found += [(os.path.relpath(path, PROJECT), name) for name in moves(tree)]
    assert {path for path, _ in found} <= {"segmentation_node/files.py"}, found
    assert found or folder != "segmentation_node"

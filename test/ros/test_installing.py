"""What README.md, the documents, package.xml and requirements/ say of installing."""

import re
from importlib import metadata
from xml.etree import ElementTree

import pytest
import yaml
from packaging.requirements import Requirement
from support.ros_sources import PROJECT

PAGES = [PROJECT / "README.md", *sorted(PROJECT.glob("docs/*.md"))]
REQUIREMENTS = ("distro", "train", "test", "bench", "openvino-nodeps", "test-nodeps")
HUMBLE = {"python_version": "3.10", "python_full_version": "3.10.12"}


def blocks(page):
    return re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)


def pinned(name):
    lines = (PROJECT / "requirements" / f"{name}.txt").read_text().splitlines()
    texts = (line.split("#")[0].strip() for line in lines)
    return [Requirement(text) for text in texts if text and not text.startswith("-")]


def test_onnx_runtime_is_installed_beside_the_numpy_of_a_distribution():
    """On Humble it asks for a newer one than Ubuntu's, and pip would take NumPy 2."""
    lines = [
        line
        for page in PAGES
        for block in blocks(page)
        if "/opt/ros/" in block
        for line in block.splitlines()
        if re.match(r" *pip3? install .*onnxruntime", line)
    ]
    assert lines
    assert all('"numpy<2"' in line for line in lines), lines


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_pins_are_of_versions_that_humbles_python_takes(name):
    for pin in pinned(name):
        if pin.marker is not None and not pin.marker.evaluate(HUMBLE):
            continue
        try:
            found = metadata.metadata(pin.name)
        except metadata.PackageNotFoundError:
            continue
        if found["Version"] in {item.version for item in pin.specifier}:
            wanted = Requirement("python" + (found["Requires-Python"] or ""))
            assert wanted.specifier.contains("3.10.12"), f"{pin}: {wanted}"


def test_package_xml_names_the_licence_of_code_and_of_weights():
    licences = ElementTree.parse(PROJECT / "package.xml").findall("license")
    named = {licence.get("file") for licence in licences}
    found = [*PROJECT.glob("LICENSE"), *PROJECT.glob("models/LICENSE")]
    assert named == {str(path.relative_to(PROJECT)) for path in found}


def test_workflows_in_a_container_let_git_read_the_checkout():
    """actions/checkout does for itself alone, and what is packed for a GPU is what git lists."""
    for path in PROJECT.glob(".github/workflows/*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            if "container" in job:
                assert any("safe.directory" in step.get("run", "") for step in job["steps"])

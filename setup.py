import os
from glob import glob

from setuptools import find_packages, setup

NAME = "segmentation_node"
SHARE = os.path.join("share", NAME)
HERE = os.path.dirname(os.path.abspath(__file__))


def model_files():
    """Every folder under models/, with its files, for share/segmentation_node."""
    for folder, _, names in os.walk("models"):
        files = sorted(os.path.join(folder, name) for name in names if not name.startswith("."))
        if files and "__pycache__" not in folder:
            yield os.path.join(SHARE, folder), files


def script_options():
    """Makes the installed commands run under .venv, where onnxruntime is, whoever builds them.

    A distribution's colcon would otherwise write the system's Python into them. An
    environment made without a distribution can't import that distribution's ROS.
    """
    python = os.path.join(HERE, ".venv", "bin", "python")
    config = os.path.join(HERE, ".venv", "pyvenv.cfg")
    if not os.path.exists(python) or not os.path.exists(config):
        return {}
    with open(config) as stream:
        sees_system = "include-system-site-packages = true" in stream.read().lower()
    if "ROS_DISTRO" in os.environ and not sees_system:
        return {}
    return {"build_scripts": {"executable": python}}


setup(
    name=NAME,
    version="0.1.0",
    description="Semantic segmentation of camera images for ROS 2",
    license="Apache-2.0",
    author="segmentation_node developers",
    author_email="segmentation_node@example.org",
    maintainer="segmentation_node developers",
    maintainer_email="segmentation_node@example.org",
    python_requires=">=3.6",
    classifiers=[
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    packages=find_packages(include=[NAME, NAME + ".*"]),
    package_data={NAME: ["label_sets/*.yaml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + NAME]),
        (SHARE, ["package.xml"]),
        (os.path.join(SHARE, "launch"), sorted(glob("launch/*.py"))),
        (os.path.join(SHARE, "config"), sorted(filter(os.path.isfile, glob("config/*")))),
    ]
    + list(model_files()),
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    options=script_options(),
    entry_points={
        "console_scripts": [
            "segmentation_node = segmentation_node.ros.main:main",
            "evaluation = segmentation_node.evaluation.__main__:main",
            "engine = segmentation_node.engine:main",
            "import_model = segmentation_node.importing.__main__:main",
        ],
    },
)

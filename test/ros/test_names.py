"""Names in the launch files, the configuration and the documents are those that the code knows."""

import ast
import os
import re
from xml.etree import ElementTree

import pytest
import yaml
from support.ros_sources import PROJECT

from segmentation_node.backends import BACKENDS
from segmentation_node.ros.parameters import PARAMETERS

SPECS = {spec.name: spec for spec in PARAMETERS}
TARGETS = sorted(PROJECT.glob("config/*.yaml"))
LAUNCH_FILES = sorted(PROJECT.glob("launch/*.launch.py"))
PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "benchmarks" / "README.md",
    *sorted(PROJECT.glob("docs/*.md")),
]
HOME = os.path.expanduser("~")
# Names of ROS 2 itself that a page may set with `:=`.
ROS_NAMES = {"__ns", "__node", "use_sim_time"}


def tree(path):
    return ast.parse(path.read_text())


def strings(path):
    found = (node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant))
    return {value for value in found if isinstance(value, str)}


def constant(path, name):
    """The expression bound to a top-level name."""
    for statement in tree(path).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return statement.value
    raise AssertionError(f"{path.name} has no {name}")


def launch_arguments(path):
    declared = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "DeclareLaunchArgument":
            if isinstance(node.args[0], ast.Constant):
                declared.add(node.args[0].value)
            else:
                rows = constant(path, "ARGUMENTS").elts
                declared |= {row.elts[0].value for row in rows}
    return declared


def code_strings():
    return set().union(*map(strings, PROJECT.glob("segmentation_node/ros/*.py")))


def code_topics():
    return {text for text in code_strings() if re.fullmatch(r"~/\w[\w/]*", text)}


def keyword(call, name):
    found = [k.value.value for k in call.keywords if k.arg == name]
    return found[0] if found else None


def parameters(path):
    return yaml.safe_load(path.read_text())["/**"]["ros__parameters"]


@pytest.fixture(scope="module")
def node_page():
    return (PROJECT / "docs" / "node.md").read_text()


def test_every_target_has_a_launch_file_and_a_config_file():
    assert [path.stem for path in TARGETS] == ["cpu", "desktop", "tx1"]
    for path in TARGETS:
        assert f"{path.stem}.yaml" in strings(PROJECT / f"launch/{path.stem}.launch.py")


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_config_sets_parameters_that_exist_to_values_they_take(path):
    for name, value in parameters(path).items():
        assert name in SPECS, f"{path.name}: no parameter {name}"
        spec = SPECS[name]
        assert type(value) is type(spec.default), f"{path.name}: {name}"
        assert spec.refusal(value, configured=False) == ""
        if spec.limits:
            assert spec.limits[0] <= value <= spec.limits[1], f"{path.name}: {name}"


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_config_chooses_what_its_backend_offers(path):
    chosen = parameters(path)
    assert re.fullmatch(r"auto|cpu|cuda(:\d+)?", chosen["device"])
    if chosen["backend"] in BACKENDS:
        assert chosen["precision"] in BACKENDS[chosen["backend"]].precisions


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_config_names_a_shipped_model(path):
    if not (PROJECT / "models").is_dir():
        pytest.skip("MODEL NAMES NOT CHECKED: there is no models/")
    assert (PROJECT / "models" / parameters(path)["model"] / "model.yaml").is_file()


def test_launch_starts_an_installed_executable():
    scripts = [text for text in strings(PROJECT / "setup.py") if " = segmentation_node." in text]
    package = ElementTree.parse(PROJECT / "package.xml").findtext("name")
    known = {(package, script.split(" = ")[0]) for script in scripts} | {("rviz2", "rviz2")}
    calls = [
        node
        for path in LAUNCH_FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Node"
    ]
    assert calls
    for call in calls:
        assert (keyword(call, "package"), keyword(call, "executable")) in known
    assert ("segmentation_node", "evaluation") in known
    replay = (PROJECT / "launch/replay.launch.py").read_text()
    assert 'ExecutableInPackage("evaluation", "segmentation_node")' in replay


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_files_named_by_launch_exist(path):
    for text in strings(path):
        if re.fullmatch(r"\w+\.(yaml|rviz|xml)", text):
            assert (PROJECT / "config" / text).is_file(), text
        if re.fullmatch(r"\w+\.launch\.py", text):
            assert (PROJECT / "launch" / text).is_file(), text


def test_launch_overrides_parameters_of_the_right_type():
    rows = constant(PROJECT / "launch/segmentation.launch.py", "PARAMETER_ARGUMENTS").elts
    for argument, name, kind in (row.elts for row in rows):
        if name.value not in ROS_NAMES:
            assert type(SPECS[name.value].default).__name__ == kind.id
        assert argument.value in launch_arguments(PROJECT / "launch/segmentation.launch.py")


@pytest.mark.parametrize("name", ["cameras", "replay"])
def test_arguments_that_are_passed_on_exist(name):
    path = PROJECT / f"launch/{name}.launch.py"
    passed_on = {argument.value for argument in constant(path, "PASSED_ON").elts}
    assert passed_on <= launch_arguments(path)
    assert passed_on <= launch_arguments(PROJECT / "launch/segmentation.launch.py")


def test_a_replay_gives_options_that_exist():
    replay = PROJECT / "launch/replay.launch.py"
    rows = [row.elts for name in ("OPTIONS", "FLAGS") for row in constant(replay, name).elts]
    commands = PROJECT.glob("segmentation_node/evaluation/commands/*.py")
    options = set().union(*map(strings, commands))
    for argument, option in rows:
        assert argument.value in launch_arguments(replay)
        assert option.value in options


def rviz_topics():
    config = yaml.safe_load((PROJECT / "config/segmentation.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    return {display["Topic"]["Value"]: display for display in displays}


def test_rviz_shows_the_image_and_the_nodes_topics():
    private = "/segmentation_node/"
    for topic in rviz_topics():
        known = topic.replace(private, "~/") if topic.startswith(private) else topic.lstrip("/")
        assert known in code_strings(), topic
    assert {"/image", private + "overlay"} <= set(rviz_topics())


def test_the_window_state_of_rviz_knows_the_displays():
    """By their names, UTF-16; a dock that it does not know RViz would show at a size of its own."""
    config = yaml.safe_load((PROJECT / "config/segmentation.rviz").read_text())
    state = config["Window Geometry"]["QMainWindow State"]
    for display in rviz_topics().values():
        assert display["Name"].encode("utf-16-be").hex() in state


def test_launch_remaps_every_topic_of_rviz():
    text = (PROJECT / "launch/segmentation.launch.py").read_text()
    for topic in rviz_topics():
        assert f'"{topic.rpartition("/")[2]}"' in text or f'"{topic}"' in text, topic


def test_profile_gives_shared_memory_room_for_big_images():
    profile = ElementTree.parse(PROJECT / "config/fastdds_large_images.xml")
    text = {element.tag.rpartition("}")[2]: element.text for element in profile.iter()}
    assert int(text["segment_size"]) == 64 * 1024 * 1024
    # One message may be as big as a 2048x1024 colour image.
    assert 2048 * 1024 * 3 < int(text["maxMessageSize"]) <= int(text["segment_size"])
    assert text["useBuiltinTransports"] == "false"


def topics_of(text):
    return set(re.findall(r"~/[a-z]\w*(?:/\w+)*", text))


def test_the_page_of_the_node_names_the_topics_of_the_code(node_page):
    derived = {topic + "/compressed" for topic in code_topics()}
    assert code_topics() <= topics_of(node_page) <= code_topics() | derived


def test_readme_names_topics_of_the_code():
    named = topics_of((PROJECT / "README.md").read_text())
    named = {name for name in named if not name.startswith("~/ws")}  # a workspace's path
    assert {"~/class_map", "~/overlay"} <= named <= code_topics()


def test_the_page_of_the_node_names_every_parameter_with_its_default(node_page):
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \|", node_page.split("## Parameters")[1], re.M)
    shown = {name: default.strip("`") for name, default in rows}
    assert shown == {spec.name: as_shown(spec.default) for spec in PARAMETERS}
    groups = {name.split(".")[0] for name in SPECS if "." in name}
    quoted = set(re.findall(r"`([\w.]+)`", node_page))
    assert {q for q in quoted if "." in q and q.split(".")[0] in groups} <= set(SPECS)


def test_the_page_of_the_node_gives_the_values_that_each_parameter_takes(node_page):
    rows = re.findall(
        r"^\| `([\w.]+)` \| .+? \| (.*?) ?\|", node_page.split("## Parameters")[1], re.M
    )
    for name, values in rows:
        spec = SPECS[name]
        if spec.choices:
            assert set(re.findall(r"`(\w+)`", values)) == set(spec.choices), name
        if spec.limits:
            low, high = values.split(" to ")
            assert (float(low), float(high)) == spec.limits, name
    assert {name for name, _ in rows} == set(SPECS)


def as_shown(default):
    """A default as the page shows it."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return str(default).replace(HOME, "~") or "empty"


def test_the_page_of_the_node_names_every_launch_file(node_page):
    launched = set(re.findall(r"\b(\w+\.launch\.py)", node_page))
    assert launched == {path.name for path in LAUNCH_FILES}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_name_files_that_exist(page):
    text = page.read_text()
    for folder, pattern in (
        ("launch", r"\b(\w+\.launch\.py)"),
        ("config", r"\bconfig/(\w+\.\w+)"),
        ("requirements", r"\brequirements/(\w+\.txt)"),
        ("docs", r"\bdocs/(\w+\.md)"),
    ):
        for name in re.findall(pattern, text):
            assert (PROJECT / folder / name).is_file(), name
    for path in re.findall(
        r"`((?:segmentation_node|training|benchmarks|test)/[a-z0-9_/]+\.py)`", text
    ):
        assert (PROJECT / path).is_file(), path
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def test_every_launch_argument_is_on_a_page():
    text = "\n".join(page.read_text() for page in PAGES)
    for path in LAUNCH_FILES:
        for name in launch_arguments(path):
            assert re.search(rf"`{name}`|\b{name}:=", text), f"{path.name}: {name}"


def sections(text):
    """What a link may name after #: headings as GitHub spells them, and named anchors."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = (heading.lower() for heading in re.findall(r"^#+ (.+)$", prose, re.M))
    spelled = {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}
    return spelled | set(re.findall(r'<a name="(.+?)">', prose))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_into_pages_name_sections_that_exist(page):
    for path, section in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", page.read_text()):
        target = page.parent / path if path else page
        assert section in sections(target.read_text()), f"{path}#{section}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_set_only_names_that_exist(page):
    arguments = set().union(*map(launch_arguments, LAUNCH_FILES))
    for name in re.findall(r"([\w./~]+):=", page.read_text()):
        assert name in arguments | set(SPECS) | ROS_NAMES | {"image"} | code_topics(), name

"""The structure of the project: which room may import which, its dependencies, its scripts, its first impression.

The plan is data (`ROOMS` below). The imports are read from the syntax trees. Whatever does not follow the plan is
listed at once, each with its place. To change the structure, change the plan here. A rule is here only if breaking it
harms somebody: files that are not added to git, a new folder at the top, a badge in the README break none.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "gpt2_from_scratch"

# ----------------------------------------------------------------------------------------------------------
# The plan
# ----------------------------------------------------------------------------------------------------------

# A room is a module of the package, or a folder of them. A room imports only rooms that stand below it in this list.
ROOMS = (
    "__main__",
    "cli",
    "pytest_plugin",
    "testing",
    "__init__",  # what `import gpt2_from_scratch` offers
    "verifier",
    "reports",  # a verdict as data, and its forms
    "diagnose",
    "checks",
    "inspecting",
    "generation",
    "reference",
    "model",
    "parallel",  # its layers, divided among ranks
    "streaming",  # weights that stay in their file
    "layers",
    "cache",
    "speed",
    "converting",
    "tokenizer",
    "loading",
    "infer_layout",
    "anatomy",
    "recorder",
    "layouts",
    "mapping",
    "checkpoint",
    "engines",  # models of other programs as candidates
    "building",
    "asking",
    "ranks",  # a model on several ranks of torch.distributed
    "generation_config",
    "config",
    "trace",
    "compare",
    "precision",
    "arrays",
    "errors",
)
HEIGHT = {room: height for height, room in enumerate(reversed(ROOMS))}

NAMELESS_IDEAS = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}

# What a stranger looks for at the top. More may stand there.
TOP_LEVEL = {
    ".ci", ".gitattributes", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "constraints.txt",
    PACKAGE, "pyproject.toml", "scripts", "tests",
}  # fmt: skip

# What no file of the project says, and why.
FOREIGN_WORDS = {
    r"(?<![\w.:])/(?:work|root)/": "a path of one machine",
    r"\b(?:design|formats|faults|known_answers|anchors)\.md\b": "a document that does not ship",
}
# What no file that is executed says. Prose may: a badge, or how to install torch for a graphics card.
REGISTRIES = r"\b(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|index[-]url|find[-]links)\b"
WHOSE_CHOICE = "about package registries; where pip looks is the user's choice"

# ----------------------------------------------------------------------------------------------------------
# Reading the code
# ----------------------------------------------------------------------------------------------------------


class Import(NamedTuple):
    target: str  # absolute and dotted: "gpt2_from_scratch.loading.LoadReport", "torch.nn"
    line: int


def imports(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import in `source`: at the top, in a function, under TYPE_CHECKING, by `import_module("...")`."""
    home = module.split(".") if is_package else module.split(".")[:-1]

    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield Import(name.name, node.lineno)
            case ast.ImportFrom(module=origin, names=names, level=level):
                up = ".".join(home[: len(home) - level + 1]) if level else ""
                base = ".".join(filter(None, [up, origin]))
                for name in names:
                    yield Import(f"{base}.{name.name}", node.lineno)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(target))]):
                yield Import(target, node.lineno)


def room(dotted: str) -> str:
    """The room a name of ours lives in; what `gpt2_from_scratch` itself offers lives in `__init__`."""
    name = dotted.split(".")[1] if "." in dotted else ""
    return name if name in HEIGHT else "__init__"


def objection(source: str, target: str) -> str | None:
    """Why room `source` may not import room `target`, or None if it may."""
    if source == target or HEIGHT[source] > HEIGHT[target]:
        return None
    return f"`{source}` imports `{target}`, which stands above it in ROOMS"


def module_files() -> list[tuple[str, Path]]:
    """All modules of the package: dotted name and file."""
    files = [file for file in sorted((ROOT / PACKAGE).rglob("*.py")) if not is_hidden(file)]
    assert files, f"no package at {ROOT / PACKAGE}"
    names = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    return [(".".join(name).removesuffix(".__init__"), file) for name, file in zip(names, files, strict=True)]


def is_hidden(file: Path) -> bool:
    """Whether a file is an editor's or an operating system's: `.ipynb_checkpoints/`, `.DS_Store`."""
    return any(part.startswith(".") for part in file.relative_to(ROOT).parts)


def is_ours(dotted: str) -> bool:
    return dotted.split(".")[0] == PACKAGE


@cache
def module_imports() -> tuple[tuple[str, Path, Import], ...]:
    """Every import of the package with the module and the file that it stands in."""
    return tuple(
        (module, file, found)
        for module, file in module_files()
        for found in imports(file.read_text(), module, file.name == "__init__.py")
    )


def package_imports() -> list[tuple[str, str, Import]]:
    """Every import of the package with the room it stands in and its place: (room, "file:line", import)."""
    return [
        (
            "__main__" if module == f"{PACKAGE}.__main__" else room(module),
            f"{file.relative_to(ROOT)}:{found.line}",
            found,
        )
        for module, file, found in module_imports()
    ]


def repository_files() -> list[Path]:
    """What git has, relative to the top. What lies beside it, not added, is nobody's business."""
    # safe.directory: CI often checks out as one user and tests as another.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "-c"]
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("what belongs to the repository is known to git only, and this is not a git checkout")
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).exists()]


def fail_with(title: str, found: list[str]) -> None:
    """One failure that lists everything, in place of a diff of lists."""
    if found:
        pytest.fail("\n  ".join([f"{title}:", *found]), pytrace=False)


def pyproject() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def normal(requirement: str) -> str:
    """The name in a requirement, in the form that compares: "google_crc32c>=1" -> "google-crc32c"."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


# ----------------------------------------------------------------------------------------------------------
# Rooms and arrows
# ----------------------------------------------------------------------------------------------------------


def test_every_module_has_a_room():
    rooms = {module.split(".")[1] for module, _ in module_files() if "." in module}
    fail_with("modules that the plan has no room for (ROOMS)", sorted(rooms - HEIGHT.keys()))
    fail_with("rooms without a module", sorted(HEIGHT.keys() - rooms - {"__init__"}))


def test_a_room_imports_only_rooms_below_it():
    wrong = []
    for here, place, found in package_imports():
        if is_ours(found.target) and (why := objection(here, room(found.target))):
            wrong.append(f"{place}  {why}")
    fail_with("imports against the plan", wrong)


WRONG_IMPORTS = [
    ("config", f"from {PACKAGE}.model import GPTModel"),
    ("layers", "def f():\n    from . import verifier"),
    ("layouts.nanogpt", "from ..loading import load_into"),
    ("checkpoint.detect", f"importlib.import_module('{PACKAGE}.cli')"),
    ("compare", f"from {PACKAGE} import GPTModel"),
    ("loading.opening", "if TYPE_CHECKING:\n    from ..model import GPTModel"),
]
RIGHT_IMPORTS = [
    ("model", "class GPTModel:\n    def save_pretrained(self):\n        from . import loading"),
    ("verifier.verdict", "from .floor import Floor\nfrom ..errors import CandidateError"),
    ("mapping", f"from {PACKAGE}.errors import MappingError"),
    ("config", "import torch\nfrom cli import main"),
]


def objections(module: str, source: str) -> list[str]:
    found = [found for found in imports(source, f"{PACKAGE}.{module}") if is_ours(found.target)]
    reasons = [objection(room(f"{PACKAGE}.{module}"), room(each.target)) for each in found]
    return [why for why in reasons if why]


@pytest.mark.parametrize(("module", "source"), WRONG_IMPORTS)
def test_a_wrong_import_is_seen(module: str, source: str):
    (why,) = objections(module, source)
    assert "stands above it" in why


@pytest.mark.parametrize(("module", "source"), RIGHT_IMPORTS)
def test_a_right_import_is_allowed(module: str, source: str):
    assert objections(module, source) == []


def circle(imported: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle, in the order of the imports; none where there is no circle."""
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        return [str(module) for module in error.args[1]]
    return []


def test_no_modules_import_one_another_in_a_circle():
    """The order of rooms forbids circles between them; this forbids them inside a room, late imports included."""
    imported: dict[str, set[str]] = {module: set() for module, _ in module_files()}
    for module, _, found in module_imports():
        target = found.target
        while target and target not in imported:
            target = target.rpartition(".")[0]
        if target not in ("", PACKAGE, module):
            imported[module].add(target)
    fail_with("modules that import one another in a circle", circle(imported))


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_only_the_reference_knows_transformers():
    fail_with(
        "transformers is imported outside `reference`, the room that keeps it replaceable and late",
        [
            place
            for here, place, found in package_imports()
            if found.target.split(".")[0] == "transformers" and here != "reference"
        ],
    )


def test_nothing_imports_a_script():
    wrong = []
    for file in [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        source = file.read_text()
        wrong += [
            f"{file.relative_to(ROOT)}:{found.line}"
            for found in (imports(source, file.stem) if "scripts" in source else ())
            if found.target.split(".")[0] == "scripts"
        ]
    fail_with("scripts are programs that people run; what others need belongs into a room", wrong)


def test_the_library_never_prints():
    wrong = []
    for module, file in module_files():
        if room(module) == "cli":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="print")):
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    fail_with("the library returns results and raises errors; only the command line prints", wrong)


def test_every_name_is_an_idea():
    folders = (ROOT / name for name in (PACKAGE, "tests", "scripts"))
    files = [file.relative_to(ROOT) for folder in folders for file in folder.rglob("*.py") if not is_hidden(file)]
    fail_with(
        "a file without an idea of its own: name what it is for, or move its parts to the rooms they serve",
        [str(file) for file in files if NAMELESS_IDEAS & set(file.with_suffix("").parts)],
    )


# ----------------------------------------------------------------------------------------------------------
# What an import costs
# ----------------------------------------------------------------------------------------------------------


def modules_of(*arguments: str) -> set[str]:
    """The modules that a fresh interpreter has imported when `python *arguments` ends well."""
    # PYTHONPATH: also where the package lies beside the tests and is not installed.
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, re.sub(r"^import time:.*\n", "", run.stderr, flags=re.MULTILINE)
    return set(re.findall(r"^import time:.*\| +(\S+)$", run.stderr, flags=re.MULTILINE))


def test_importing_the_package_imports_nothing_heavier_than_torch():
    # torch._dynamo: what stock layers on the meta device pull in, 800 modules and a second (torch 2.13).
    # huggingface_hub: an HTTP client, which a local file does not need.
    code = f"import {PACKAGE}; {PACKAGE}.GPTModel, {PACKAGE}.GPTConfig"
    heavy = modules_of("-c", code) & {"transformers", "torch._dynamo", "huggingface_hub"}
    fail_with(f"`import {PACKAGE}` also imports (find out from where with -X importtime)", sorted(heavy))


def test_help_does_not_import_torch():
    heavy = modules_of("-m", PACKAGE, "--help") & {"torch", "transformers", "numpy", "huggingface_hub"}
    fail_with("`gpt2 --help` answers within 0.3 s only without (see -X importtime)", sorted(heavy))


# ----------------------------------------------------------------------------------------------------------
# Dependencies
# ----------------------------------------------------------------------------------------------------------


def test_dependencies_are_those_the_package_imports():
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    declared = {normal(item) for item in project["dependencies"]}
    declared |= {normal(item) for extra, items in extras.items() if extra != "dev" for item in items}
    known = packages_distributions()
    roots = {found.target.split(".")[0] for _, _, found in package_imports()}
    foreign = roots - sys.stdlib_module_names - {PACKAGE, "pytest"}  # whoever loads pytest_plugin has pytest
    # More than one installed package may bring a module of this name, its types for one.
    brought_by = {root: {normal(name) for name in known.get(root, [root])} for root in foreign}
    fail_with(
        "dependencies and imports of the package disagree",
        [
            f"{root}: imported, not in pyproject.toml"
            for root, names in sorted(brought_by.items())
            if not names & declared
        ]
        + [
            f"{name}: in pyproject.toml, imported nowhere" for name in sorted(declared.difference(*brought_by.values()))
        ],
    )


def test_every_dependency_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [pin for line in lines if (pin := re.split("[#;]", line)[0].strip())]  # without comments and conditions
    fail_with(
        "constraints.txt holds exact public versions (no `+cpu`: that build is not everywhere)",
        [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)],
    )
    project = pyproject()["project"]
    direct = sum(project["optional-dependencies"].values(), start=project["dependencies"])
    fail_with(
        "in pyproject.toml, without a pin in constraints.txt",
        sorted({normal(item) for item in direct} - {normal(pin) for pin in pins}),
    )


@pytest.mark.skipif(find_spec("pip") is None or find_spec("setuptools") is None, reason="the wheel is built with both")
def test_the_wheel_holds_the_types_and_the_trained_model(tmp_path: Path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    # A copy, so that no build folder stays behind; no isolation, so that nothing is downloaded.
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        "out",
        ".",
    ]
    run = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    (wheel,) = (tmp_path / "out").glob("*.whl")
    packed = {name for name in ZipFile(wheel).namelist() if name.startswith(f"{PACKAGE}/")}
    source = {
        file.relative_to(tmp_path).as_posix()
        for file in (tmp_path / PACKAGE).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert f"{PACKAGE}/tiny/config.json" in source
    fail_with(
        "the wheel differs from the package",
        [f"missing: {name}" for name in sorted(source - packed)]
        + [f"extra: {name}" for name in sorted(packed - source)],
    )


# ----------------------------------------------------------------------------------------------------------
# What a stranger meets
# ----------------------------------------------------------------------------------------------------------


def test_the_top_level_holds_what_it_should():
    found = {file.parts[0] for file in repository_files()}
    fail_with(
        "the top level of the repository is its table of contents",
        [f"missing: {name}" for name in sorted(TOP_LEVEL - found)],
    )


def test_no_file_speaks_of_one_workplace():
    wrong, files = [], repository_files()
    shipped = {file.name for file in files}
    for file in files:
        patterns = FOREIGN_WORDS | ({} if file.suffix == ".md" else {REGISTRIES: WHOSE_CHOICE})
        try:
            lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # weights
        if file.name in {"vocab.json", "merges.txt", "tokenizer.json"}:
            continue  # the words of a trained vocabulary are not ours
        for number, line in enumerate(lines, start=1):
            for pattern, what in patterns.items():
                if (match := re.search(pattern, line)) and match[0] not in shipped:
                    wrong.append(f"{file}:{number}  `{match[0]}` is {what}")
    fail_with("text that means nothing outside one workplace", wrong)


def test_readme_shows_the_commands_that_are_run():
    shown = {line.partition("#")[0].strip() for line in (ROOT / "README.md").read_text().splitlines()}
    quickstart = (ROOT / "scripts" / "quickstart").read_text()
    ci = (ROOT / ".ci" / "run").read_text()
    with_output = {line.removeprefix("$ ") for line in shown if line.startswith("$ gpt2 ")}
    scripts = {line for line in shown if line.startswith("bash scripts/")}
    assert with_output and scripts, "README.md does not say how to begin"
    run = re.findall(r"^gpt2 .+", quickstart, flags=re.MULTILINE)
    tested = re.findall(r"^check (bash scripts/.+)", ci, flags=re.MULTILINE)
    fail_with("README.md shows the output of what scripts/quickstart does not run", sorted(with_output.difference(run)))
    fail_with("README.md shows a script that .ci/run does not run", sorted(scripts.difference(tested)))

    ask = [sys.executable, "-m", PACKAGE, "--help"]
    usage = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"\w+", usage))
    subcommands = {match[1] for line in shown if (match := re.match(r"(?:\$ )?gpt2 (\w+)", line))}
    fail_with("README.md shows a command that `gpt2 --help` does not name", sorted(subcommands - known))


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/quickstart", "scripts/test", ".ci/run"])
def test_shell_scripts_parse(script: str):
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("stub", "complaint"),
    [(None, "cannot run"), ("#!/bin/sh\necho 3.9\n", "is Python 3.9, but 3.11 or newer is needed")],
    ids=["no-such-interpreter", "too-old"],
)
def test_the_set_up_names_the_python_it_cannot_use(tmp_path: Path, stub: str | None, complaint: str):
    python = tmp_path / "python"
    if stub:
        python.write_text(stub)
        python.chmod(0o755)
    run = subprocess.run(
        ["bash", str(ROOT / "scripts" / "quickstart")],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert complaint in run.stderr
    assert "PYTHON=" in run.stderr  # what to do next
    assert run.stdout == ""

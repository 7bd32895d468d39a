"""The Dockerfile, read: no engine that could build it is needed."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from cluster.kubernetes import KubernetesSpec
from cluster.pods import cluster_manifest, driver_job

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL", re.IGNORECASE)


def _instructions() -> list[tuple[str, str]]:
    """Return the instructions in order: word and the rest, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    found = [line.split(None, 1) for line in lines if line.strip()]
    return [(word, " ".join(rest.split())) for word, rest in found]


def _stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return each stage's base and instructions."""
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for word, rest in _instructions():
        if word == "FROM":
            base, _, name = rest.split()
            stages[name] = (base, [])
            into = stages[name][1]
        elif stages:
            into.append((word, rest))
    return stages


def _of(stage: str, word: str) -> list[str]:
    """Return an instruction's values in a stage and in those that it is built on."""
    stages = _stages()
    found: list[str] = []
    while stage in stages:
        stage, said = stages[stage]
        found = [rest for w, rest in said if w == word] + found
    return found


def _ignored(path: str) -> bool:
    """Tell whether .dockerignore leaves a path out: the last line that matches decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        parts = [path, *map(str, Path(path).parents)]
        if line and not line.startswith("#") and any(_matches(part, pattern) for part in parts):
            out = not line.startswith("!")
    return out


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatch(Path(path).name, pattern[3:])
    return fnmatch.fnmatch(path, pattern) and (path.count("/") == pattern.count("/"))


def test_there_is_an_image_without_and_one_with_cuda() -> None:
    stages = _stages()
    assert {"cpu", "cuda"} < set(stages)
    assert list(stages)[-1] == "cpu", "what a build without a target gives"
    assert stages["cuda"][0] == stages["cpu"][0] == "base"


@pytest.mark.parametrize("stage", ["build-cpu", "build-cuda"])
def test_every_source_exists_and_reaches_the_build(stage: str) -> None:
    sources = [source for rest in _of(stage, "COPY") for source in rest.split()[:-1]]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not _ignored(source), source
    packages = {
        pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages <= set(sources), "all packages of the project"
    asked = {
        PROJECT["project"]["readme"],
        *PROJECT["project"]["license-files"],
        "pyproject.toml",
        "constraints.txt",
    }
    assert asked <= set(sources)


@pytest.mark.parametrize(
    "path", [".git", ".venv", "runs", "demo", "tests", ".env", "id_rsa", "engine/__pycache__"]
)
def test_nothing_else_reaches_the_build(path: str) -> None:
    assert _ignored(path)


@pytest.mark.parametrize("stage", ["build-cpu", "build-cuda"])
def test_what_is_installed_is_what_was_tested(stage: str) -> None:
    (extras,) = [rest.split("=", 1)[1] for rest in _of(stage, "ARG") if rest.startswith("EXTRAS=")]
    known = set(PROJECT["project"]["optional-dependencies"])
    assert set(extras.split(",")) <= known
    installs = [rest for rest in _of(stage, "RUN") if "pip install" in rest]
    assert installs
    for install in installs:
        assert " -c constraints" in install or "grep '^torch==' constraints.txt" in install, install
    assert (ROOT / "constraints.txt").read_text().count("\ntorch==") == 1


def test_bases_are_pinned() -> None:
    (python,) = [rest for word, rest in _instructions() if word == "ARG" and rest.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-[a-z]+", python)
    series = ".".join(python.split("=")[1].split(".")[:2])
    assert PROJECT["project"]["requires-python"] == f">={series}", "the oldest that is supported, as tested"
    bases = {base for base, _ in _stages().values()} - set(_stages())
    assert bases == {"python:${PYTHON}"}


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_an_image_runs_as_a_common_user_without_secrets_and_build_tools(stage: str) -> None:
    assert _of(stage, "USER") == ["1000:1000"]
    spec = KubernetesSpec(image="landweave")
    assert spec.user == 1000, "the same in pods"
    names = [
        pair.split("=", 1)[0] for word in ("ENV", "ARG") for rest in _of(stage, word) for pair in rest.split()
    ]
    assert names
    assert [name for name in names if SECRET.search(name)] == []
    copied = _of(stage, "COPY")
    assert copied == [f"--from=build-{stage} /opt/venv /opt/venv"]
    assert any("rm -rf /var/lib/apt/lists/*" in rest for rest in _of(stage, "RUN"))
    assert not any("pip install" in rest for rest in _of(stage, "RUN"))
    (path,) = [pair for rest in _of(stage, "ENV") for pair in rest.split() if pair.startswith("PATH=")]
    assert path.startswith("PATH=/opt/venv/bin:")


def test_commands_of_image_and_pods_exist() -> None:
    assert _of("cpu", "ENTRYPOINT") == ['["tini", "--"]'], "it runs what it is given"
    assert any("apt-get install" in rest and " tini " in rest for rest in _of("cpu", "RUN"))
    assert _of("cpu", "CMD") == ['["landweave", "--help"]']
    assert PROJECT["project"]["scripts"] == {"landweave": "pipelines.cli:main"}
    spec = KubernetesSpec(image="landweave")
    pods = cluster_manifest(spec, "lux")["spec"]
    for part in ("scheduler", "worker"):
        args = pods[part]["spec"]["containers"][0]["args"]
        options = [arg for arg in args if arg.startswith("--")]
        told = subprocess.run(
            [_program(args[0]), args[1], "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert [option for option in options if option not in told] == []
    assert driver_job(spec, "lux", ("landweave",))["spec"]["template"]["spec"]["containers"][0]["args"] == [
        "landweave"
    ]


def _program(name: str) -> str:
    import sys

    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found is not None, name
    return found

"""Environments as values: what env= means, how it is spelled for a shell, and which packages functions need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import networkx
import numpy
import pytest
from pydantic import TypeAdapter

import hpcflow as hf
from hpcflow.core.environment import Environment, environment_key, inside, missing_from, shell_lines
from hpcflow.core.model import ClusterName, Resources, Shape, UserError
from hpcflow.sdk.environment import parse_env, read_requirements
from hpcflow.sdk.manifest import manifest
from hpcflow.sdk.options import parse_options
from hpcflow.server.manifest import read_graph

CLUSTER = Environment(modules=("gcc/13",), conda="base", binds=("/scratch",))


# ---- what env= means


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("conda:science", Environment(conda="science")),
        ("venv:~/envs/dft/", Environment(venv="~/envs/dft")),
        ("module:openblas/0.3", Environment(modules=("openblas/0.3",))),
        ("container:/images/a b.sif", Environment(container="/images/a b.sif")),
        ("container:docker://python:3.12", Environment(container="docker://python:3.12")),
        (hf.Env(requirements=["b", "a==1"]), Environment(requirements=("a==1", "b"))),
    ],
)
def test_a_text_names_an_environment(written: object, means: Environment) -> None:
    assert parse_env("env", written) == means


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: parse_env("env", "science"), "write 'project', 'conda:NAME'"),
        (lambda: parse_env("env", 3), "env=3 is no environment"),
        (lambda: hf.Env(conda="a", venv="/b"), "conda and venv each bring an interpreter"),
        (lambda: hf.Env(modules=["-x"]), "one word that does not begin with '-'"),
        (lambda: hf.Env(modules="a b"), "one word"),
        (lambda: hf.Env(venv="envs/x"), "absolute path on the cluster"),
        (lambda: hf.Env(container="image.sif"), "absolute path on the cluster, or a URI"),
        (lambda: hf.Env(binds=["scratch"]), "absolute path, with ':/inside'"),
        (lambda: hf.Env(prologue="a\r\n"), "carriage return"),
        (lambda: hf.Env(requirements=["git+https://example.org/x"]), "only wheels travel"),
        (lambda: hf.Env(requirements=["x @ git+https://example.org/x"]), "only wheels travel"),
        (lambda: hf.Env(requirements=["--config-settings=x"]), "means nothing here"),
        (lambda: hf.Env(requirements=["a\nb"]), "is no requirement"),
        (lambda: hf.Env(requirements=Path("/nowhere.txt")), "can't be read"),
        (lambda: hf.Env(alone=1), "must be True or False"),  # type: ignore[arg-type]  # what a user may write
    ],
)
def test_what_can_not_be_an_environment_is_told(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(UserError, match=problem.replace("(", r"\(")):
        make()


def test_an_electrons_environment_takes_the_place_of_its_lattices() -> None:
    @hf.electron(env="conda:own")
    def own() -> int:
        return 1

    @hf.electron
    def bare() -> int:
        return 2

    @hf.lattice(env=hf.Env(modules=["openblas"], requirements=["numpy==2.1"]))
    def flow() -> list[int]:
        return [own(), bare()]

    sent, _ = manifest(flow.build_graph())
    graph = read_graph({**sent, "blobs": [[1, "0" * 64]] * 9})
    assert [task.env for task in graph.tasks] == [
        Environment(conda="own"),
        Environment(modules=("openblas",), requirements=("numpy==2.1",)),
    ]


def test_without_env_a_shape_says_nothing_of_it() -> None:
    @hf.electron
    def bare() -> int:
        return 2

    @hf.lattice
    def flow() -> int:
        return bare()

    sent, _ = manifest(flow.build_graph())
    assert "env" not in sent["shapes"][0]  # type: ignore[index]  # JSON


def test_an_environment_stays_where_its_cluster_is() -> None:
    here = parse_options({"executor": "slurm", "env": "conda:science"}, "f")
    assert parse_options({"executor": "slurm"}, "f").over(here).env == Environment(conda="science")
    assert parse_options({"executor": "other"}, "f").over(here).env is None


def test_a_bag_is_stored_with_its_environment() -> None:
    env = hf.Env(modules=["a"], venv="~/b", binds=["/c"], prologue="d\ne", requirements=["f"], alone=True, check=False)
    shape = Shape(cluster=ClusterName("far"), resources=Resources(), python="python3", python_version=(3, 12), env=env)
    raw = TypeAdapter(Shape).dump_json(shape)
    assert TypeAdapter(Shape).validate_json(raw) == shape


# ---- on a cluster that has an environment of its own


def test_modules_and_folders_of_both_count_and_one_interpreter() -> None:
    assert Environment(modules=("fftw", "gcc/13")).over(CLUSTER) == replace(CLUSTER, modules=("gcc/13", "fftw"))
    assert Environment(venv="/v", binds=("/data",)).over(CLUSTER) == Environment(
        modules=("gcc/13",), venv="/v", binds=("/scratch", "/data")
    )
    assert Environment(requirements=("a",), alone=True).over(CLUSTER).conda == "base"


def test_further_packages_make_equal_environments_in_any_order() -> None:
    one = Environment(conda="x").adding(["b", "a"])
    assert one == Environment(conda="x").adding(["a"]).adding(["b"])
    assert one.adding([]) is one
    assert one.base == Environment(conda="x")


def test_a_key_tells_what_differs_and_nothing_else() -> None:
    env = Environment(requirements=("a", "b"))

    def key(env: Environment, cluster: str = "far", machine: str = "x86_64", python: tuple[int, int] = (3, 12)) -> str:
        return environment_key(env, cluster=cluster, machine=machine, python=python)

    same = {key(env), key(replace(env, requirements=("b", "a"))), key(replace(env, check=False))}
    others = [
        key(env, machine="aarch64"),
        key(env, python=(3, 13)),
        key(env, cluster="near"),
        key(replace(env, alone=True)),
        key(replace(env, conda="x")),
        key(env.adding(["c"])),
    ]
    assert len(same) == 1
    assert len({*same, *others}) == 7


# ---- spelled for a shell


def says(lines: str, program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines and then a program, as a batch script does."""
    script = f'{lines}exec "$@"'
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", "/bin/sh", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def test_names_reach_their_commands_as_they_are(tmp_path: Path) -> None:
    said = 'module() { test "$1" = load && MODULES="$MODULES<$2>"; export MODULES; }\n'
    names = ("gcc/13", "it's", "$(touch${IFS}x);x")
    done = says(said + shell_lines(Environment(modules=names)), 'echo "$MODULES"')
    assert done.stdout == "<gcc/13><it's><$(touch${IFS}x);x>\n"


def test_a_module_that_is_not_there_ends_the_shell_with_a_sentence() -> None:
    done = says("module() { return 1; }\n" + shell_lines(Environment(modules=("x;y",))), "echo never")
    assert (done.returncode, done.stdout, done.stderr) == (78, "", "hpcflow: module load x;y failed\n")


def test_a_site_without_a_module_command_in_sh_has_it_found(tmp_path: Path) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init/sh").write_text("module() { LOADED=$2; export LOADED; }\n")
    done = says(shell_lines(Environment(modules=("gcc",))), 'echo "$LOADED"', MODULESHOME=str(tmp_path))
    assert done.stdout == "gcc\n"


def test_a_venv_is_first_on_path_and_has_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "my env/bin").mkdir(parents=True)
    lines = shell_lines(Environment(venv="~/my env", prologue="echo own"))
    missing = says(lines, "echo never", HOME=str(tmp_path))
    assert (missing.returncode, missing.stderr) == (78, "hpcflow: ~/my env is no virtual environment\n")
    (tmp_path / "my env/bin/python").symlink_to(sys.executable)
    done = says(lines, 'command -v python; echo "$VIRTUAL_ENV"', HOME=str(tmp_path))
    assert done.stdout == f"own\n{tmp_path}/my env/bin/python\n{tmp_path}/my env\n"


def test_conda_is_found_where_people_install_it(tmp_path: Path) -> None:
    conda = tmp_path / "miniforge3/bin/conda"
    conda.parent.mkdir(parents=True)
    conda.write_text("#!/bin/sh\necho 'conda() { ACTIVE=\"$1 $2\"; export ACTIVE; }'\n")
    conda.chmod(0o755)
    lines = shell_lines(Environment(conda="my-env"))
    assert says(lines, 'echo "$ACTIVE"', HOME=str(tmp_path)).stdout == "activate my-env\n"
    none = says(lines, "echo never", HOME="/nowhere")
    sentence = "hpcflow: conda was not found: load it as a module, or put it on PATH\n"
    assert (none.returncode, none.stdout, none.stderr) == (78, "", sentence)


def test_a_conda_that_cannot_start_and_an_environment_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    conda = tmp_path / "miniconda3/bin/conda"
    conda.parent.mkdir(parents=True)
    conda.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    conda.chmod(0o755)
    lines = shell_lines(Environment(conda="my-env"))
    broken = says(lines, "echo never", HOME=str(tmp_path))
    assert (broken.returncode, broken.stderr) == (78, "broken\nhpcflow: conda could not set its shell up\n")
    conda.write_text("#!/bin/sh\necho 'conda() { return 1; }'\n")
    missing = says(lines, "echo never", HOME=str(tmp_path))
    assert (missing.returncode, missing.stderr) == (78, "hpcflow: conda activate my-env failed\n")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", "its shell said nothing"),
        ("hpcflow: module load x failed\n", "module load x failed."),
        (
            "hpcflow: 2: module: not found\nhpcflow: module load x failed\n",
            "module load x failed. It wrote: hpcflow: 2: module: not found",
        ),
        ("EnvironmentLocationNotFound\n", "EnvironmentLocationNotFound"),
    ],
)
def test_what_is_missing_is_said_before_what_the_shell_wrote(said: str, told: str) -> None:
    assert missing_from(said) == told


def test_an_empty_environment_needs_no_shell() -> None:
    assert shell_lines(Environment(requirements=("a",), container="/i.sif")) == ""
    assert inside(Environment(), ["python", "x"], folders=["/w"]) == ("python", "x")


def test_the_container_sees_what_it_is_given_by_whichever_name_its_program_has(tmp_path: Path) -> None:
    program = tmp_path / "singularity"
    program.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    program.chmod(0o755)
    env = Environment(container="/i m.sif", binds=("/data",))
    argv = inside(env, ["python3", "w.pyz", "a b"], folders=["/work", "/work"], gpus=True)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.stdout == "<exec><--nv><--bind></work><--bind></data></i m.sif><python3><w.pyz><a b>"
    none = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": "/nowhere"})
    assert (none.returncode, none.stderr) == (78, "hpcflow: neither apptainer nor singularity is on PATH\n")


# ---- requirements


def test_a_requirements_file_is_read_with_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/base.txt").write_text("scipy \\\n    --hash=sha256:00 --hash=sha256:11\n")
    (tmp_path / "requirements.txt").write_text(
        "# ours\n--index-url https://example.org/simple\n-r more/base.txt\nnumpy>=2  # fast\n-e .\n.[test]\n\n"
        "ase ; python_version > '3.9'\n"
    )
    assert read_requirements(str(tmp_path / "requirements.txt")) == [
        "--index-url https://example.org/simple",
        "scipy",
        "numpy>=2",
        "ase ; python_version > '3.9'",
    ]


def project(folder: Path) -> Environment:
    """Return the environment of a program that lies in a folder below a project's."""
    program = folder / "src/program.py"
    program.parent.mkdir(exist_ok=True)
    program.write_text("import hpcflow as hf\nprint(repr(hf.electron(env='project')(len).annotations.env))\n")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    made = eval(done.stdout, {"Environment": Environment})
    assert isinstance(made, Environment)
    return made


def test_a_project_is_what_its_files_say(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["numpy>=2", "ase"]\n')
    assert project(tmp_path) == Environment(requirements=("ase", "numpy>=2"), alone=True)
    (tmp_path / "requirements.txt").write_text("numpy==2.1\n")
    assert project(tmp_path).requirements == ("numpy==2.1",)
    (tmp_path / "pylock.toml").write_text(
        'lock-version = "1.0"\n[[packages]]\nname = "x"\n[packages.directory]\npath = "."\n'
        '[[packages]]\nname = "scipy"\nversion = "1.14"\nmarker = "sys_platform == \'linux\'"\n'
        '[[packages.wheels]]\nurl = "https://example.org/scipy-1.14.whl"\n'
    )
    assert project(tmp_path).requirements == ("scipy==1.14 ; sys_platform == 'linux'",)


#: As uv writes it: the project, and one package that it needs on Linux.
UV_LOCK = """
version = 1
requires-python = ">=3.11"

[[package]]
name = "part"
version = "0.2"
source = { registry = "https://example.org/simple" }
wheels = [{ url = "https://example.org/part-0.2-py3-none-any.whl", hash = "sha256:%s", size = 10 }]

[[package]]
name = "x"
version = "1"
source = { virtual = "." }
dependencies = [{ name = "part", marker = "sys_platform == 'linux'" }]

[package.metadata]
requires-dist = [{ name = "part", marker = "sys_platform == 'linux'" }]
"""


@pytest.mark.skipif(shutil.which("uv", path=os.path.dirname(sys.executable)) is None, reason="needs uv")
def test_the_lock_file_of_uv_is_read_by_uv(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["part"]\n'
    )
    (tmp_path / "uv.lock").write_text(UV_LOCK % ("0" * 64))
    assert project(tmp_path) == Environment(requirements=("part==0.2 ; sys_platform == 'linux'",), alone=True)
    (tmp_path / "uv.lock").write_text("version = 99\n")
    with pytest.raises(AssertionError, match=r"uv can't export .*uv\.lock"):
        project(tmp_path)


def test_a_project_without_packages_is_told(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.x]\n")
    with pytest.raises(AssertionError, match=r"pyproject\.toml names no packages"):
        project(tmp_path)
    (tmp_path / "pyproject.toml").write_text("not toml")
    with pytest.raises(AssertionError, match="can't be read"):
        project(tmp_path)


# ---- what functions need


def imports_of(function: Callable[..., object], *arguments: object) -> dict[str, str]:
    electron = hf.electron(function)

    @hf.lattice
    def flow() -> object:
        return electron(*arguments)

    (text,) = flow.build_graph().functions.values()
    return dict(text.imports)


def test_globals_and_imports_in_the_body_are_needed() -> None:
    def f(x: float) -> object:
        import pydantic_settings.sources as s

        return numpy.sin(x), s

    needed = imports_of(f, 1)
    assert sorted(needed) == ["numpy", "pydantic_settings"]
    assert needed["numpy"] == numpy.__version__


def test_what_a_function_can_do_without_is_not_needed() -> None:
    def f() -> int:
        import json

        try:
            import cupy  # type: ignore[import-not-found]  # nobody has it
        except ImportError:
            cupy = None
        return len(json.dumps(cupy))

    assert imports_of(f) == {}


def test_what_is_not_here_has_no_version() -> None:
    def f() -> object:
        import only_on_the_cluster  # type: ignore[import-not-found]  # nobody has it

        return only_on_the_cluster

    assert imports_of(f) == {"only_on_the_cluster": ""}


def test_a_module_that_was_made_up_here_is_not_needed() -> None:
    made_up = ModuleType("_cython_9_9")

    def reduce(_: object) -> object:
        return networkx.Graph, ()

    kind = type("function", (), {"__module__": "_cython_9_9", "__reduce__": reduce})
    thing = kind()
    vars(thing)["__module__"] = "networkx.classes.graph"
    other = kind()
    sys.modules["_cython_9_9"] = made_up
    try:
        needed = imports_of(lambda: (thing, other))
    finally:
        del sys.modules["_cython_9_9"]
    assert sorted(needed) == ["networkx"]


def test_classes_of_arguments_are_needed_too() -> None:
    def f(graph: object) -> object:
        return graph

    assert imports_of(f, networkx.Graph()) == {"networkx": networkx.__version__}
    assert imports_of(f, {"a": [1, 2.5, "b"]}) == {}

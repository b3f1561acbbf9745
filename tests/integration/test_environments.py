"""Environments of tasks on a cluster behind ssh: packages installed there, modules, conda, containers, refusals."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hpcflow
from hpcflow.core.environment import Environment
from tests.integration.test_ssh_clusters import Laptop, a_laptop, has_own_python
from tests.integration.world import User, begun, ended, until
from tests.wheelhouse import make_wheel

#: What a cluster has in the way of environments: each writes down how it was called, and does what the real one does.
DOUBLES = {
    "conda": """#!/bin/sh
# `conda shell.posix hook` prints a function; `conda activate NAME` puts the environment's programs first on PATH.
test "$1 $2" = "shell.posix hook" || exit 2
cat <<'END'
conda() {
    test -d "ROOT/conda/$2/bin" || { echo "EnvironmentNameNotFound: $2" >&2; return 1; }
    CONDA_DEFAULT_ENV=$2 PATH=ROOT/conda/$2/bin:$PATH; export CONDA_DEFAULT_ENV PATH
}
END
""",
    "apptainer": """#!/bin/sh
# `apptainer exec [--nv] [--bind A]... IMAGE COMMAND...`: only what is bound may be named by the command.
test "$1" = exec || exit 2
shift
bound=
while :; do case $1 in
    --nv) shift ;;
    --bind) bound="$bound $2"; shift 2 ;;
    *) break ;;
esac; done
APPTAINER_CONTAINER=$1; shift
echo "$APPTAINER_CONTAINER$bound" >>"ROOT/apptainer.calls"
export APPTAINER_CONTAINER
PATH=ROOT/image:$PATH
exec "$@"
""",
}

#: `module` is a function of the shell, as on every site.
PROLOGUE = """
prologue = '''
PATH=ROOT/bin:$PATH
module() {
    test -f "ROOT/modules/$2" || { echo "Unable to locate a modulefile for '$2'" >&2; return 1; }
    . "ROOT/modules/$2"
}
'''
"""


@dataclass(frozen=True)
class Site:
    """A laptop, its wheels, and a cluster with a few environments."""

    laptop: Laptop
    house: Path
    root: Path

    def runs(self, program: str, *arguments: str) -> str:
        return self.laptop.user.runs(HEAD + program, *arguments)

    def refuses(self, program: str) -> str:
        """Return what is said of a program that can't be dispatched."""
        ended = self.laptop.user.tries(HEAD + program)
        assert ended.returncode != 0, ended.stdout
        return ended.stderr

    @property
    def installed(self) -> list[str]:
        """The environments that hpcflow made there."""
        return sorted(str(record.parent) for record in (self.laptop.work / "envs").glob("*/hpcflow.json"))


HEAD = """
import os
import sys
import hpcflow as hf

def result(flow, *arguments):
    got = hf.get_result(hf.dispatch(flow)(*arguments), wait=True)
    return got.result if got.error is None else got.error

"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    root, house = folder / "site", folder / "wheelhouse"
    for name in ("bin", "modules", "image", "conda/science/bin"):
        (root / name).mkdir(parents=True)
    for name, text in DOUBLES.items():
        (root / "bin" / name).write_text(text.replace("ROOT", str(root)))
        (root / "bin" / name).chmod(0o755)
    (root / "modules/openblas").write_text("OPENBLAS=0.3; export OPENBLAS\n")
    for place in (root / "image/python3", root / "conda/science/bin/python"):
        place.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        place.chmod(0o755)
    make_wheel(house, "thing", "1.5", needs=["part"])
    make_wheel(house, "part", "0.2", "VALUE = 42")
    with a_laptop(
        folder, table=PROLOGUE.replace("ROOT", str(root)), HPCFLOW_WHEELHOUSE=str(house), HPCFLOW_AFTER_FAULT="0.2"
    ) as laptop:
        yield Site(laptop, house, root)


# ---- packages that are installed there


THING = """
@hf.electron(executor="far", env=hf.Env(requirements=["thing>=1"]))
def versions(x):
    import part
    import thing
    return thing.__version__, part.VALUE + x, sys.prefix

@hf.lattice
def flow():
    return [versions(i) for i in range(3)]

print(*result(flow), sep="\\n")
"""


def test_packages_are_installed_once_and_used_by_every_later_dispatch(site: Site) -> None:
    rows = [eval(row) for row in site.runs(THING).splitlines()]
    assert [row[:2] for row in rows] == [("1.5", 42), ("1.5", 43), ("1.5", 44)]
    (folder,) = {row[2] for row in rows}
    assert folder in site.installed
    made_at = (Path(folder) / "hpcflow.json").stat().st_mtime_ns
    assert site.runs(THING).count(folder) == 3
    assert (Path(folder) / "hpcflow.json").stat().st_mtime_ns == made_at
    shown = site.laptop.user.asks("show", site.laptop.user.dispatches()[0])
    said = [message["text"] for message in site.laptop.user.asks("show", site.laptop.user.dispatches()[-1])["messages"]]
    assert [text for text in said if "thing" in text] == ["Installing thing>=1 on far, once; tasks that need it wait."]
    assert not [message for message in shown["messages"] if "Installing" in message["text"]]


PROJECT = """
@hf.electron
def seen():
    import importlib.util
    import part
    return part.VALUE, importlib.util.find_spec("networkx") is not None

@hf.lattice(executor="far", env="project")
def flow():
    return seen()

print(result(flow))
"""


def test_a_project_has_its_own_packages_and_no_others(site: Site) -> None:
    site.laptop.user.writes("requirements.txt", "part==0.2  # no more\n-e .\n")
    assert site.runs(PROJECT) == "(42, False)"


NOWHERE = """
@hf.electron(executor="far", env=hf.Env(requirements=["nowhere==3"]))
def never():
    return 1

@hf.electron(executor="far")
def always():
    return 2

@hf.lattice
def flow():
    return never(), always()

got = hf.get_result(hf.dispatch(flow)(), wait=True)
print(got.dispatch_id, got.status, *[node.state for node in got.tasks()])
print(got.error)
"""


def test_what_can_not_be_installed_fails_its_tasks_alone_and_is_tried_again_when_asked(site: Site) -> None:
    line, error = site.runs(NOWHERE).split("\n", 1)
    dispatch, *states = line.split()
    assert states == ["FAILED", "failed", "completed"]
    assert "0: never: The environment could not be made. Not all wheels for Python 3." in error
    assert "No matching distribution found for nowhere==3" in error
    make_wheel(site.house, "nowhere", "3")
    assert site.laptop.user.hpcflow("retry", dispatch).returncode == 0
    assert site.laptop.user.waits_for(dispatch)["status"] == "COMPLETED"


@pytest.mark.slow
def test_a_cluster_that_is_away_is_waited_for(site: Site) -> None:
    make_wheel(site.house, "late", "1")
    program = NOWHERE.replace("nowhere==3", "late").replace("return 1", "import late; return late.__version__")
    assert site.laptop.user.hpcflow("clusters", "test", "far").returncode == 0
    earlier = set(site.laptop.user.dispatches())
    site.laptop.proxy.refuse = True
    site.laptop.proxy.cut()
    with begun(site.laptop.user, HEAD + program) as running:
        (dispatch,) = until(lambda: set(site.laptop.user.dispatches()) - earlier)
        until(lambda: "Packages can't be installed on far now" in str(site.laptop.user.asks("show", dispatch)))
        site.laptop.proxy.refuse = False
        out, err = ended(site.laptop.user, running)
    assert out.splitlines()[0] == f"{dispatch} COMPLETED completed completed", err


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0 or not has_own_python("hpc"), reason="needs root, a user hpc and its Python")
def test_another_user_there_gets_packages_for_a_python_that_is_not_ours(tmp_path: Path) -> None:
    house = tmp_path / "house"
    make_wheel(house, "part", "0.2", "VALUE = 42")
    make_wheel(house, "thing", "1.5", needs=["part"])
    with a_laptop(tmp_path, user="hpc", HPCFLOW_WHEELHOUSE=str(house)) as laptop:
        try:
            rows = [eval(row) for row in laptop.user.runs(HEAD + THING).splitlines()]
            assert [row[:2] for row in rows] == [("1.5", 42), ("1.5", 43), ("1.5", 44)]
            (folder,) = {Path(row[2]) for row in rows}
            assert folder.owner() == "hpc" and folder.stat().st_mode & 0o077 == 0
        finally:
            shutil.rmtree(laptop.work, ignore_errors=True)


# ---- what the cluster has


def test_a_module_is_loaded_and_one_that_is_not_there_is_told(site: Site) -> None:
    program = """
@hf.electron(executor="far", env="module:openblas")
def variable():
    return os.environ["OPENBLAS"]

@hf.lattice
def flow():
    return variable()

print(result(flow))
"""
    assert site.runs(program) == "0.3"
    said = site.runs(program.replace("module:openblas", "module:intel;touch${IFS}INJECTED"))
    assert "Unable to locate a modulefile for 'intel;touch${IFS}INJECTED'" in said
    assert "is not there on far: module load intel;touch${IFS}INJECTED failed." in said
    assert not list(site.laptop.work.rglob("INJECTED"))


def test_a_conda_environment_brings_its_own_interpreter(site: Site) -> None:
    program = """
@hf.electron(executor="far", env="conda:science")
def where():
    return os.environ["CONDA_DEFAULT_ENV"], os.environ["PATH"].split(":")[0]

@hf.lattice
def flow():
    return where()

print(*result(flow))
"""
    assert site.runs(program) == f"science {site.root}/conda/science/bin"


def test_the_worker_runs_in_a_container_that_sees_its_folders(site: Site) -> None:
    program = """
@hf.electron(executor="far", env=hf.Env(container="/images/tool.sif", binds=["/scratch:/data"]))
def where():
    return os.environ["APPTAINER_CONTAINER"]

@hf.lattice
def flow():
    return where()

print(result(flow))
"""
    assert site.runs(program) == "/images/tool.sif"
    called = (site.root / "apptainer.calls").read_text().splitlines()[-1].split()
    (keys,) = (site.laptop.work.parent / "keys").iterdir()
    assert called == ["/images/tool.sif", str(site.laptop.work), str(keys), "/scratch:/data"]


# ---- what is refused before anything is submitted


IMPORTS = """
import networkx

@hf.electron(executor="far", env="venv:VENV")
def uses():
    return networkx.__name__

@hf.lattice
def flow():
    return uses()

print(result(flow))
"""


@pytest.fixture(scope="module")
def empty_venv(site: Site) -> Path:
    folder = site.root / "empty venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def test_packages_that_the_environment_lacks_are_named_before_submission(site: Site, empty_venv: Path) -> None:
    said = site.refuses(IMPORTS.replace("VENV", str(empty_venv)))
    assert "Electron 'uses' can't run. 'far' lacks networkx, which its function imports" in said
    assert f"{empty_venv}/bin/python with Python {sys.version_info[0]}.{sys.version_info[1]}" in said
    assert "env='project'" in said and "Env(check=False)" in said


def test_a_module_that_a_function_can_do_without_is_not_missing(site: Site, empty_venv: Path) -> None:
    program = (
        IMPORTS.replace("VENV", str(empty_venv))
        .replace("import networkx\n\n@", "@")
        .replace(
            "    return networkx.__name__",
            "    try:\n        import networkx\n    except ImportError:\n        return 7",
        )
    )
    assert site.runs(program) == "7"


def test_other_versions_are_told(site: Site, empty_venv: Path) -> None:
    packages = next((empty_venv / "lib").glob("python3*")) / "site-packages"
    about = packages / "networkx-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: networkx\nVersion: 1.2\n")
    (packages / "networkx.py").write_text("")
    ended = site.laptop.user.tries(HEAD + IMPORTS.replace("VENV", str(empty_venv)))
    assert (ended.returncode, ended.stdout) == (0, "networkx\n")
    assert "Versions on 'far' are not those of this program: networkx 3." in ended.stderr
    assert " here and 1.2 there." in ended.stderr


def test_an_environment_of_another_python_is_refused(site: Site) -> None:
    folder = site.root / "other/bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(
        f'#!/bin/sh\n{sys.executable} "$@" | sed "s/^hpcflow-target 3[.0-9]*/hpcflow-target 3.99/"\n'
    )
    (folder / "python").chmod(0o755)
    said = site.refuses(IMPORTS.replace("VENV", str(folder.parent)))
    assert "on 'far' is Python 3.99, and this program runs under 3." in said


def test_what_can_not_be_asked_from_the_login_side_is_not_missing(site: Site) -> None:
    program = IMPORTS.replace("VENV", "/only/on/compute/nodes")
    ended = site.laptop.user.tries(HEAD + program.replace("print(result(flow))", "print(hf.dispatch(flow)())"))
    assert ended.returncode == 0, ended.stderr
    assert "lacks" not in ended.stderr
    assert site.laptop.user.hpcflow("cancel", ended.stdout.split()[-1]).returncode == 0


def test_the_program_of_the_page_prints_what_the_page_says(own_server: Callable[..., User], tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/howto/environments.md").read_text()
    marked = page.partition("<!-- program: begin")[2].partition("<!-- program: end -->")[0]
    (program,) = re.findall(r"```python\n(.*?)```", marked, re.DOTALL)
    house = tmp_path / "house"
    source = "class engine:\n    def plural(self, word):\n        return word + 's'"
    make_wheel(house, "inflect", "7.5", source)
    user = own_server(HPCFLOW_WHEELHOUSE=str(house), HPCFLOW_DEFAULT_EXECUTOR="local")
    (said,) = re.findall(r"print\(result.result\)  # (.*)", program)
    assert user.runs(program) == said


def test_the_values_of_the_page_are_environments() -> None:
    page = (Path(__file__).parents[2] / "docs/howto/environments.md").read_text()
    (values,) = re.findall(r"```python\n(tool = .*?)```", page, re.DOTALL)
    made: dict[str, Environment] = {}
    exec(values, {"hf": hpcflow}, made)
    assert made["tool"] == Environment(modules=("gcc/13", "openblas/0.3"), conda="science")
    assert made["image"].binds == ("/scratch", "/data/ref:/ref:ro")


def test_ranks_are_not_started_from_inside_of_a_container(site: Site) -> None:
    env = 'env="container:/i.sif", launcher="mpirun", ntasks=2'
    said = site.refuses(IMPORTS.replace("import networkx\n\n@", "@").replace('env="venv:VENV"', env))
    assert "where a container has no mpirun" in said


# ---- an interpreter that is not there

#: `uv python install 3.X` puts an interpreter below UV_PYTHON_INSTALL_DIR.
UV = f"""#!/bin/sh
test "$1 $2" = "python install" || exit 2
test "$UV_PYTHON_INSTALL_BIN" = 0 || exit 2
folder=$UV_PYTHON_INSTALL_DIR/cpython-$3.9-linux-x86_64-gnu/bin
/bin/mkdir -p "$folder"
printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' >"$folder/python$3"
/bin/chmod 755 "$folder/python$3"
"""

WHERE = """
@hf.electron(executor="far")
def where():
    return os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0]))), sys.version_info[:2]

@hf.lattice
def flow():
    return where()

print(result(flow))
"""


@pytest.mark.slow
@pytest.mark.parametrize("uv", ["on PATH", "sent"])
def test_a_python_that_is_not_there_is_installed_where_clusters_toml_says_auto(tmp_path: Path, uv: str) -> None:
    bare, house = tmp_path / "bare", tmp_path / "house"
    bare.mkdir()
    for tool in ("mkdir", "chmod"):
        (bare / tool).symlink_to(shutil.which(tool) or tool)
    if uv == "on PATH":
        (bare / "uv").write_text(UV)
        (bare / "uv").chmod(0o755)
    if uv == "sent":
        with zipfile.ZipFile(make_wheel(house, "uv", "9.0"), "a") as wheel:
            wheel.writestr("uv-9.0.data/scripts/uv", UV)
    house.mkdir(exist_ok=True)
    table = f"prologue = 'PATH={bare}'\n"
    with a_laptop(tmp_path, table=table, python="auto", HPCFLOW_WHEELHOUSE=str(house)) as laptop:
        own = f"{sys.version_info[0]}.{sys.version_info[1]}"
        said = laptop.user.runs(HEAD + WHERE)
        assert said.endswith(f"{sys.version_info[:2]})")
        shown = laptop.user.asks("show", laptop.user.dispatches()[0])
        assert f"Installing Python {own} on far, once; tasks that need it wait." in str(shown["messages"])
        (installed,) = (laptop.work / "pythons").glob(f"*/bin/python{own}")
        assert installed.read_text().startswith("#!/bin/sh")

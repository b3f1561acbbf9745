"""Zipapps made from the installed files: all that a cluster needs beyond Python itself."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import marshal
import re
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from hpcflow.core.model import HpcflowError

__all__ = ["build_environment_maker", "build_worker"]

#: What a worker starts from; the modules of ours that these import when they are imported go along.
_ROOTS: Final = (
    "hpcflow.node.worker",
    "hpcflow.node.probe",
    "hpcflow.node.local",
    "hpcflow.sdk.workflow",
    "hpcflow.sdk.environment",
    "hpcflow.sdk.hooks",
    "hpcflow.sdk.keys",
    "hpcflow.sdk.body",
    "hpcflow.sdk.executors",
    "hpcflow.executor",
    "hpcflow.leptons",
    "hpcflow.fs",
)
_IMPORT: Final = re.compile(
    rb"^(?:import|from) (?P<package>hpcflow[a-z0-9_.]*)(?: import (?P<names>\([^)]*\)|[^\n#]*))?", re.MULTILINE
)
_NAME: Final = re.compile(rb"\w+")
# The earliest date that a zip file can hold: the same files give the same bytes.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


def build_worker() -> tuple[str, bytes]:
    """Return a file name that is unique for its content, and the content: Python runs it as ``python <file>``."""
    main = (_folder("hpcflow") / "node" / "__main__.py").read_bytes()
    return _zipapp("worker", main, _ROOTS, ["cloudpickle"])


def build_environment_maker() -> tuple[str, bytes]:
    """Return the same for `hpcflow.node.environment`, which installs wheels on the cluster."""
    main = b"import sys\nfrom hpcflow.node.environment import main\nsys.exit(main(sys.argv[1:]))\n"
    return _zipapp("environment", main, ["hpcflow.node.environment"], ["installer"])


def _zipapp(name: str, main: bytes, roots: Iterable[str], libraries: Iterable[str]) -> tuple[str, bytes]:
    files = {"__main__.py": main, **dict(_files(roots, libraries))}
    files |= {f"{file}c": _compiled(file, source) for file, source in files.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in sorted(files):
            entry = zipfile.ZipInfo(file, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, files[file])
    content = buffer.getvalue()
    return f"{name}-{_version()}-{hashlib.sha256(content).hexdigest()[:12]}.pyz", content


def _compiled(name: str, source: bytes) -> bytes:
    """Return the byte code of this Python, which saves a worker of the same version a third of its start.

    Any other version finds that the magic number is not its own, and reads the source beside it.
    """
    # PEP 552: a hash-based pyc whose source is not looked at again; the zip's dates say nothing.
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    code = compile(source, f"<worker>/{name}", "exec", dont_inherit=True)
    return header + marshal.dumps(code)


def _files(roots: Iterable[str], libraries: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    own = _folder("hpcflow")
    waiting: list[str] = [*roots]
    seen: set[Path] = set()
    while waiting:
        for path in _module_files(own, waiting.pop()):
            if path not in seen and path.exists():
                seen.add(path)
                source = path.read_bytes()
                waiting.extend(_imported(source))
                yield f"hpcflow/{path.relative_to(own).as_posix()}", source
    for library in libraries:
        folder = _folder(library)
        for path in folder.rglob("*.py"):
            yield f"{library}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _module_files(own: Path, module: str) -> Iterator[Path]:
    """Yield the files that an import of the module runs: its packages' and its own."""
    path = own
    for part in module.split(".")[1:]:
        yield path / "__init__.py"
        path /= part
    yield path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imported(source: bytes) -> Iterator[str]:
    """Yield the modules of hpcflow that this source imports at once: not in a function, not for type checkers only.

    They are the statements that begin a line; parsing the source would take as long as compiling it. A name may be a
    module of the package: what is no file is left out.
    """
    for found in _IMPORT.finditer(source):
        package = found["package"].decode()
        yield package
        yield from (f"{package}.{name.decode()}" for name in _NAME.findall(found["names"] or b""))


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise HpcflowError(f"The package {package} isn't installed as files, so that the worker can't be made from it.")
    return Path(found.submodule_search_locations[0])


def _version() -> str:
    try:
        return version("hpcflow-orchestrator")
    except PackageNotFoundError:
        return "0"

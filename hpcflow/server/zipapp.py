"""The worker's zipapp, made from the installed files: all that a compute node needs beyond Python itself."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import marshal
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from hpcflow.core.model import HpcflowError

__all__ = ["build_worker"]

#: What a worker starts from; the modules of ours that these import when they are imported go along.
_ROOTS: Final = ("hpcflow.node.worker", "hpcflow.node.local", "hpcflow.sdk.workflow")
# The earliest date that a zip file can hold: the same files give the same bytes.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


def build_worker() -> tuple[str, bytes]:
    """Return a file name that is unique for its content, and the content: Python runs it as ``python <file>``."""
    files = dict(_files())
    files |= {f"{name}c": _compiled(name, source) for name, source in files.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, files[name])
    content = buffer.getvalue()
    return f"worker-{_version()}-{hashlib.sha256(content).hexdigest()[:12]}.pyz", content


def _compiled(name: str, source: bytes) -> bytes:
    """Return the byte code of this Python, which saves a worker of the same version a third of its start.

    Any other version finds that the magic number is not its own, and reads the source beside it.
    """
    # PEP 552: a hash-based pyc whose source is not looked at again; the zip's dates say nothing.
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    code = compile(source, f"<worker>/{name}", "exec", dont_inherit=True)
    return header + marshal.dumps(code)


def _files() -> Iterator[tuple[str, bytes]]:
    own = _folder("hpcflow")
    yield "__main__.py", (own / "node" / "__main__.py").read_bytes()
    waiting: list[str] = [*_ROOTS]
    seen: set[Path] = set()
    while waiting:
        for path in _module_files(own, waiting.pop()):
            if path not in seen:
                seen.add(path)
                source = path.read_bytes()
                waiting.extend(_imported(source))
                yield f"hpcflow/{path.relative_to(own).as_posix()}", source
    cloudpickle = _folder("cloudpickle")
    for path in cloudpickle.glob("*.py"):
        yield f"cloudpickle/{path.name}", path.read_bytes()


def _module_files(own: Path, module: str) -> Iterator[Path]:
    """Yield the files that an import of the module runs: its packages' and its own."""
    path = own
    for part in module.split(".")[1:]:
        yield path / "__init__.py"
        path /= part
    yield path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imported(source: bytes) -> Iterator[str]:
    """Yield the modules of hpcflow that this source imports at once: not in a function, not for type checkers only."""
    for statement in ast.parse(source).body:
        match statement:
            case ast.Import(names=aliases):
                names = [alias.name for alias in aliases]
            case ast.ImportFrom(module=str(module), level=0):
                names = [module]
            case _:
                names = []
        yield from (name for name in names if name.partition(".")[0] == "hpcflow")


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

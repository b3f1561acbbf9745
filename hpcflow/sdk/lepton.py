"""Electrons that are not Python functions: a function of a C library, a bash command, a module that is only there.

Covalent's names. Nothing of the arguments is ever read as shell text: bash gets them as ``$1`` and as variables.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol, Unpack, cast

from hpcflow.core.errors import HpcflowError, UserError
from hpcflow.core.words import counted
from hpcflow.sdk.by_value import let_import, module_by_value
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.options import Options, parse_options
from hpcflow.sdk.workflow import Electron

__all__ = ["BashCommand", "CFunction", "CommandOf", "Lepton", "LeptonFailed", "PythonFunction", "read_outputs"]

#: Bytes of a command's stderr that its error repeats.
_TAIL: Final = 2000
#: How long a command's stderr is read after its end, in seconds: what it left behind may hold it open for ever.
_LINGER_S: Final = 1.0


class LeptonFailed(HpcflowError):
    """A lepton's command ended with another exit code than 0, or its library can't be used where it runs."""


class Lepton(Electron[..., Any]):
    """A task in another language, called in a lattice as an electron is.

    Args:
        language: ``"python"``, ``"C"`` or ``"bash"``.
        library_name: the module, the shared library or the script, as the task's process finds it.
        function_name: what is called in it.
        argtypes: for C, each argument's ctypes type and whether it is ``INPUT``, ``OUTPUT`` or ``INPUT_OUTPUT``; for
            bash, the type of each of the ``named_outputs`` as ``(int, Lepton.OUTPUT)``.
        command: for bash, what to run: ``$1`` is the first argument, ``$name`` one that is given by name.
        named_outputs: for bash, the shell variables whose values are the result.
        display_name: what people see.
        options: annotations, as an electron has.

    Raises:
        UserError: an unknown language, or something that it needs and that is missing.
    """

    INPUT: Final = 0
    OUTPUT: Final = 1
    INPUT_OUTPUT: Final = 2

    def __init__(
        self,
        language: str = "python",
        library_name: str = "",
        function_name: str = "",
        argtypes: Iterable[tuple[type, int]] = (),
        *,
        command: str = "",
        named_outputs: Iterable[str] = (),
        display_name: str = "",
        **options: Unpack[Options],
    ) -> None:
        show_plainly()
        types = tuple((_type_name(each), kind) for each, kind in argtypes)
        # One line: it is a name in tables and in the scheduler's lists.
        name = " ".join((display_name or function_name or language).split())
        where = f"The lepton {name!r}"
        if any(kind not in {self.INPUT, self.OUTPUT, self.INPUT_OUTPUT} for _, kind in types):
            raise UserError(f"{where}: argtypes pairs a type with Lepton.INPUT, OUTPUT or INPUT_OUTPUT.")
        outputs = tuple(named_outputs)
        if language.lower() in {"bash", "shell"}:
            function: _Named = _bash_function(where, command, (library_name, function_name), types, outputs)
        else:
            function = _library_function(where, language, library_name, function_name, types)
        function.__name__ = function.__qualname__ = name
        super().__init__(function, parse_options(options, where))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.function, BashCommand):
            self.function.refuse_names(kwargs)  # where the mistake is seen at once, not in the task
        return super().__call__(*args, **kwargs)


class _Named(Protocol):
    __name__: str
    __qualname__: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def _library_function(
    where: str, language: str, library: str, function: str, types: tuple[tuple[str, int], ...]
) -> _Named:
    if language.lower() not in {"python", "c"}:
        raise UserError(f"{where}: the language {language!r} is none of 'python', 'C' and 'bash'.")
    if not library or not function:
        raise UserError(f"{where}: {language} needs library_name= and function_name=.")
    return CFunction(library, function, types) if language.lower() == "c" else PythonFunction(library, function)


def _bash_function(
    where: str, command: str, of: tuple[str, str], types: tuple[tuple[str, int], ...], outputs: tuple[str, ...]
) -> _Named:
    if bool(command) == bool(of[0]):
        raise UserError(f"{where}: bash needs either command= or library_name=, a script.")
    wanted = [name for name, kind in types if kind == Lepton.OUTPUT]
    return BashCommand(command, *of, outputs=read_outputs(where, outputs, wanted))


def _type_name(given: object) -> str:
    name = getattr(given, "__name__", None)
    if not isinstance(given, type) or not isinstance(name, str):
        raise UserError(f"argtypes takes types, and {given!r} is none.")
    return name


def read_outputs(where: str, names: tuple[str, ...], types: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return pairs of variables and the names of their types, texts where none are given."""
    for name in names:
        if not name.isidentifier() or not name.isascii():
            raise UserError(f"{where}: named_outputs: {name!r} is no shell variable's name.")
    if types and len(types) != len(names):
        raise UserError(f"{where}: {len(names)} named_outputs and {len(types)} outputs in argtypes.")
    for kind in types:
        if kind not in _READ:
            raise UserError(f"{where}: an output of bash can be {', '.join(_READ)}, and not {kind}.")
    return tuple(zip(names, types or ["str"] * len(names), strict=True))


# ---- Python


class PythonFunction:
    """Calls a function of a module that is imported in the task."""

    def __init__(self, library: str, function: str) -> None:
        self.library = library
        self.function = function
        self.__name__ = self.__qualname__ = function
        self.__module__ = library

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = importlib.import_module(self.library)
        found = getattr(module, self.function, None)
        if not callable(found):
            raise LeptonFailed(f"The module {self.library} has no function {self.function!r}.")
        return found(*args, **kwargs)

    def __getstate__(self) -> object:
        # One of the user's own goes along, as it does with a function that imports it.
        return self.library, self.function, self.__name__, module_by_value(self.library)

    def __setstate__(self, state: object) -> None:
        self.library, self.function, name, module = cast("tuple[str, str, str, Any]", state)
        self.__name__ = self.__qualname__ = name
        self.__module__ = self.library
        if module is not None:
            let_import(module)


# ---- C


@dataclass(eq=False)
class CFunction:
    """Calls a function of a shared library by ctypes. What it gives back are its output arguments."""

    library: str
    function: str
    #: Names of ctypes types, and `Lepton.INPUT` and so on.
    types: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        self.__name__ = self.__qualname__ = self.function

    def __call__(self, *args: Any) -> Any:
        entry = self._entry()
        types = [_c_type(name) for name, _ in self.types]
        entry.argtypes, entry.restype = types, None
        given = iter(self._complete(args))
        sent = [_to_c(kind, next(given), position) for position, kind in enumerate(types, 1)]
        entry(*sent)
        back = [_from_c(value) for value, (_, way) in zip(sent, self.types, strict=True) if way != Lepton.INPUT]
        return None if not back else back[0] if len(back) == 1 else tuple(back)

    def _entry(self) -> Any:  # Any: ctypes has no name for it
        here = os.uname().nodename
        # The loader looks for a bare name where libraries are installed, and never in the task's directory.
        path = os.path.abspath(self.library) if os.path.exists(self.library) else self.library
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            raise LeptonFailed(
                f"The library {self.library} can't be opened on {here}: {error}. Name it by its whole path there, or "
                "let files= bring it into the task's directory."
            ) from None
        try:
            return library[self.function]
        except AttributeError:
            raise LeptonFailed(f"The library {self.library} on {here} has no function {self.function!r}.") from None

    def _complete(self, args: tuple[Any, ...]) -> list[Any]:
        """Return an argument for each of the function's: those that only give something back may be left out."""
        if len(args) == len(self.types):
            return [*args]
        inputs = [way != Lepton.OUTPUT for _, way in self.types]
        if len(args) != sum(inputs):
            raise LeptonFailed(f"{self.function} takes {counted(sum(inputs), 'argument')}, and was given {len(args)}.")
        given = iter(args)
        return [next(given) if is_input else None for is_input in inputs]


def _c_type(name: str) -> Any:  # Any: ctypes' own types
    target, pointer = (name[3:], True) if name.startswith("LP_") else (name, False)
    found = getattr(ctypes, target, None)
    if found is None:
        raise LeptonFailed(f"argtypes: ctypes has no type {target!r}.")
    return ctypes.POINTER(found) if pointer else found


def _to_c(kind: Any, value: Any, position: int) -> Any:  # Any: ctypes' own types
    try:
        if kind.__name__.startswith("LP_"):
            element = kind._type_
            if hasattr(value, "__getitem__") and not isinstance(value, (str, bytes)):
                return _array(element, value)
            return ctypes.pointer(element() if value is None else element(value))
        if kind in {ctypes.c_char_p, ctypes.c_wchar_p}:
            text: Any = os.fsencode(value) if kind is ctypes.c_char_p and isinstance(value, str) else value
            return kind(text)
        return kind(value)
    except (TypeError, ValueError) as error:
        raise LeptonFailed(
            f"Argument {position} can't be a {kind.__name__}: {error}, and it is a value of type "
            f"{type(value).__name__!r}."
        ) from None


def _array(element: Any, values: Any) -> Any:  # Any: ctypes' own types
    kind = element * len(values)
    try:
        view = memoryview(values)
        if view.c_contiguous and view.format == element._type_:  # an array's own numbers, as they are
            return kind.from_buffer_copy(view)
    except TypeError:
        pass
    return kind(*values)


def _from_c(value: Any) -> Any:  # Any: ctypes' own types
    contents = getattr(value, "contents", None)
    if contents is not None:
        return contents.value
    return list(value) if hasattr(value, "__getitem__") else value.value


# ---- bash

#: Writes each named variable to a descriptor of ours when the shell ends, in whatever way; $? stays.
_REPORT: Final = "trap 'hpcflow_code=$?; {{ {prints} }} >&{fd}; exit $hpcflow_code' EXIT\n"
_READ: Final[Mapping[str, Callable[[str], object]]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: text.strip().lower() not in {"", "0", "false", "no"},
}


_VARIABLE: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*")
#: Variables by which another program would run, or another file be read, or that bash sets itself.
_MEANS_SOMETHING: Final = re.compile(
    "BASH.*|LD_.*|DYLD_.*|GLIBC_TUNABLES|GCONV_PATH|PYTHON(PATH|HOME|STARTUP)|PERL5(LIB|OPT)|_|ENV|SHELL|SHELLOPTS|"
    "PATH|CDPATH|IFS|PS[0-4]|PROMPT_COMMAND|GLOBIGNORE|EXECIGNORE|POSIXLY_CORRECT|HOME|PWD|OLDPWD|TMPDIR|SHLVL|"
    "UID|EUID|PPID|GROUPS|DIRSTACK|FUNCNAME|PIPESTATUS|LINENO|OPTIND|OPTERR|RANDOM|SRANDOM|SECONDS|EPOCH(SECONDS|REALTIME)"
)


class BashCommand:
    """Runs a command, or a script's function, in a bash of its own, in the task's directory."""

    def __init__(
        self, command: str, library: str = "", function: str = "", outputs: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Take either a command or a script, and pairs of variables and the names of their types."""
        self.command = command
        self.library = library
        self.function = function
        self.outputs = outputs
        self.__name__ = self.__qualname__ = function or "bash"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.refuse_names(kwargs)
        texts = [_text(value, f"argument {position}") for position, value in enumerate(args, 1)]
        variables = {name: _text(value, f"argument {name!r}") for name, value in kwargs.items()}
        with tempfile.TemporaryFile() as report:
            self._run(texts, variables, report)
            report.seek(0)
            said = report.read().decode(errors="surrogateescape").split("\0")[:-1]
        if len(said) != len(self.outputs):
            wanted = ", ".join(name for name, _ in self.outputs)
            raise LeptonFailed(
                f"{self.__name__}: the command ended without telling the variables {wanted}, which named_outputs "
                "wants: it sets a trap on EXIT of its own, or ends with exec. Put that into a subshell, (…)."
            )
        values = [self._value(name, kind, text) for (name, kind), text in zip(self.outputs, said, strict=True)]
        return None if not values else values[0] if len(values) == 1 else tuple(values)

    def refuse_names(self, names: Iterable[str]) -> None:
        """Refuse arguments by name that bash could not give, or that would change more than the command.

        Raises:
            UserError: there is one.
        """
        for name in names:
            _refuse_name(self.__name__, name)

    def _run(self, texts: Sequence[str], variables: Mapping[str, str], report: BinaryIO) -> None:
        prints = " ".join(f'printf "%s\\0" "${{{name}+=}}${{{name}-}}";' for name, _ in self.outputs)
        script = _REPORT.format(prints=prints, fd=report.fileno()) if self.outputs else ""
        shown = self.command
        if self.library:
            # Script and function are words as well, not text of ours.
            library = os.path.abspath(self.library) if os.path.exists(self.library) else self.library
            script += 'source "$1" || exit\nshift\n' + ('"$@"' if self.function else "")
            texts = [library, *([self.function] if self.function else []), *texts]
            shown = f"{self.function or 'the script'} of {self.library}" if self.function else self.library
        code, tail = _bash(script + self.command, texts, variables, report.fileno())
        if code:
            how = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
            wrote = f" Its stderr ends: {tail}" if tail else " It wrote nothing to stderr."
            raise LeptonFailed(f"{self.__name__}: {shown!r} {how}.{wrote}")

    def _value(self, name: str, kind: str, text: str) -> object:
        if not text:
            raise LeptonFailed(f"{self.__name__}: the command set no variable {name!r}, which named_outputs wants.")
        try:
            return _READ[kind](text[1:])
        except ValueError:
            raise LeptonFailed(f"{self.__name__}: the variable {name!r} is {text[1:]!r}, and no {kind}.") from None


class CommandOf:
    """Runs the command that a Python function returns, which is called in the task, with its values."""

    #: Looked for where the user's own function is wanted.
    is_hooked: Final = True

    def __init__(self, function: Callable[..., object], outputs: tuple[tuple[str, str], ...] = ()) -> None:
        self.function = function
        self.outputs = outputs
        self._dress()

    def _dress(self) -> None:
        self.__name__ = self.__qualname__ = getattr(self.function, "__name__", "bash")
        self.__wrapped__ = self.function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        command = self.function(*args, **kwargs)
        if not isinstance(command, str):
            raise LeptonFailed(f"{self.__name__} must return a command as text, not {type(command).__name__!r}.")
        run = BashCommand(command, outputs=self.outputs)
        run.__name__ = self.__name__
        return run()

    def __getstate__(self) -> object:
        return self.function, self.outputs, self.__name__

    def __setstate__(self, state: object) -> None:
        self.function, self.outputs, name = cast(
            "tuple[Callable[..., object], tuple[tuple[str, str], ...], str]", state
        )
        self._dress()
        self.__name__ = self.__qualname__ = name


def _refuse_name(where: str, name: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise UserError(f"{where}: {name!r} is no shell variable's name, which an argument of a bash lepton needs.")
    if _MEANS_SOMETHING.fullmatch(name):
        raise UserError(
            f"{where}: an argument can't be called {name}, which means something to bash or to the programs it starts. "
            "Give it another name, and set the variable in the command."
        )


def _text(value: object, what: str) -> str:
    if isinstance(value, (bytes, os.PathLike)):
        return os.fsdecode(cast("bytes | os.PathLike[str]", value))
    if value is None or isinstance(value, (list, tuple, dict, set, frozenset)):
        raise LeptonFailed(f"{what} of a bash lepton is a {type(value).__name__}: give numbers, texts or paths.")
    text = str(value)
    if "\0" in text:
        raise LeptonFailed(f"{what} of a bash lepton holds a zero byte, which no command can be given.")
    return text


def _bash(script: str, texts: Sequence[str], variables: Mapping[str, str], report: int) -> tuple[int, str]:
    """Run a script; return its exit code, or a signal's number with a minus, and the end of its stderr."""
    sys.stdout.flush()  # what the function printed so far comes first
    sys.stderr.flush()
    for bash in ("bash", "/bin/bash"):  # the task's own first; PATH may hold none
        try:
            begun = subprocess.Popen(
                [bash, "-c", script, "lepton", *texts],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, **variables},
                pass_fds=(report,),
            )
            break
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            longest = max(len(os.fsencode(text)) for text in (script, *texts, *variables.values()))
            raise LeptonFailed(
                f"bash can't be given this command and its arguments: they are too long (the longest has {longest} "
                "bytes, and Linux takes 131071 in one). Write what is long to a file, and give its path."
            ) from None
    else:
        raise LeptonFailed(f"There is no bash on {os.uname().nodename}.")
    tail = bytearray()
    reader = threading.Thread(target=_pass_on, args=(begun.stderr, tail), daemon=True)
    reader.start()
    code = begun.wait()
    reader.join(_LINGER_S)
    return code, bytes(tail[-_TAIL:]).decode(errors="replace").strip()


def _pass_on(stream: BinaryIO, tail: bytearray) -> None:
    """Write a command's stderr to the task's own as it comes, and keep its end."""
    with stream:
        while piece := os.read(stream.fileno(), 65536):
            os.write(2, piece)
            tail += piece
            del tail[:-_TAIL]

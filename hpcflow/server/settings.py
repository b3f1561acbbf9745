"""The server's settings: read once at start from HPCFLOW_* and two TOML files, then passed down as values."""

from __future__ import annotations

import os.path
import re
import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from hpcflow.core.model import Environment, UserError
from hpcflow.core.places import Places
from hpcflow.server.origins import page_address
from hpcflow.server.site_templates import site_template

__all__ = [
    "NAME",
    "ClusterSettings",
    "Seconds",
    "Settings",
    "cluster_settings",
    "first_fault",
    "read_clusters",
    "read_settings",
]

#: Cluster names are names of files as well.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Word = Annotated[str, Field(pattern=r"^[^\s-]\S*$")]
Unit = Literal["s", "days", "bytes", "MiB"]


def _in(unit: Unit) -> Any:  # Any: pydantic's own type of what a schema says besides
    """Return what tells the page in which unit a value is."""
    return Field(json_schema_extra={"unit": unit})


Seconds = Annotated[float, Field(gt=0), _in("s")]
#: May be none at all.
Pause = Annotated[float, Field(ge=0), _in("s")]


def _several(value: object) -> object:
    """Return the values of a list that a variable of the environment holds with commas."""
    return tuple(filter(None, (each.strip() for each in value.split(",")))) if isinstance(value, str) else value


def _addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        page_address(value)
    return values


class Settings(BaseSettings):
    """What the whole server obeys: ``HPCFLOW_<NAME>`` in the environment, else config.toml, else the default.

    All times are seconds.
    """

    model_config = SettingsConfigDict(env_prefix="HPCFLOW_", extra="forbid", frozen=True, use_attribute_docstrings=True)

    default_executor: str = ""
    """The cluster of electrons that name none; empty: the scheduler found on this machine, else `local`."""
    settle: Seconds = 0.05
    """Siblings that become ready within this time share a bag."""
    gather: Pause = 10.0
    """How long ready tasks wait for others like them that are coming: at most this, doubled with each bag."""
    local_gather: Pause = 0.5
    """How long ready tasks wait for others where a submission costs nobody anything (`local`)."""
    after_fault: Seconds = 5.0
    """How long the server waits after a fault, a full disk for one, before it tries again."""
    journal_poll: Seconds = 0.1
    """How often a journal on this machine is read while lines arrive."""
    journal_poll_max: Seconds = 0.5
    """The longest time between two looks at a journal on this machine."""
    ssh_journal_poll: Seconds = 1.0
    """How often a journal behind ssh is read while lines arrive; each look is a command."""
    ssh_journal_poll_max: Seconds = 5.0
    """The longest time between two looks at a journal behind ssh."""
    ssh_keepalive: Seconds = 5.0
    """A host behind ssh that is silent for three times as long is taken for unreachable."""
    accounting_poll: Seconds = 30.0
    """How often a scheduler's accounting is asked, with one query per cluster."""
    local_poll: Seconds = 2.0
    """How often the `local` cluster is asked what became of its jobs."""
    queue_poll: Seconds = 30.0
    """How often a cluster's queue is looked at, however many pages and commands ask; never when nobody does."""
    submit_settle: Seconds = 120.0
    """How long an array that no scheduler answer names may still turn up."""
    submit_retry: Seconds = 30.0
    """After a submission that found no room: time to the next, doubled each time up to ten minutes."""
    visibility_grace: Pause = 60.0
    """How long a line that a dead worker wrote may take to be seen, on a network file system."""
    min_worker_time: Seconds = 300.0
    """A worker is worth its start when it has this much work."""
    first_width: Annotated[int, Field(ge=1)] = 64
    """Array tasks of the first array while nobody knows how long its tasks run."""
    ramp_width: Annotated[int, Field(ge=1)] = 16
    """Of these, array tasks submitted at once; others follow after ``ramp_after``, unless tasks prove to be short."""
    ramp_after: Seconds = 3.0
    """When the array tasks beyond ``ramp_width`` follow."""
    linger: Pause = 10.0
    """How long a worker waits for tasks that are still to come when it has none, in seconds; 0: not at all."""
    worker_walltime: Seconds = 3600.0
    """Limit of an array task that serves several tasks."""
    chain_length: Annotated[int, Field(ge=1)] = 1000
    """Alike tasks that follow each other one by one are one unit, of so many at most; 1: each is a unit."""
    breaker: Annotated[int, Field(ge=0)] = 20
    """So many first ends of a bag that all fail with one error pause it; 0: never."""
    kill_grace: Seconds = 5.0
    """What a task gets between SIGTERM and SIGKILL."""
    job_names: Literal["readable", "opaque"] = "readable"
    """``readable``: <electron>-<id>; ``opaque``: hf-<id>, where job names are nobody's business."""
    idle_exit: Seconds = 12 * 3600.0
    """A server that a dispatch started exits after this long with nothing live."""
    open_idle: Seconds = 300.0
    """The dispatch of an `hf.Executor` with nothing left is closed when its program was not heard for so long."""
    keep_days: Annotated[float, Field(ge=0), _in("days")] = 0.0
    """Bags of dispatches that ended so many days ago are removed, files of tasks excepted; 0: never."""
    max_upload: Annotated[int, Field(gt=0), _in("bytes")] = 16 * 2**30
    """An upload may not unpack to more bytes than this."""
    max_fetch: Annotated[int, Field(gt=0), _in("bytes")] = 16 * 2**30
    """A file that is fetched beside the server for tasks may not have more bytes than this."""
    fetch_silence: Seconds = 300.0
    """Such a transfer of which nothing comes for so long is given up."""
    page_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_several), AfterValidator(_addresses)] = ()
    """Where the page may be reached besides 127.0.0.1, behind a proxy: its addresses in a browser."""
    wheelhouse: str = ""
    """A folder of wheels: packages that environments ask for come from there alone, and not by pip's own settings."""
    max_depth: Annotated[int, Field(ge=1, le=10_000)] = 200
    """So deep may sublattices lie in each other: a recursion without an end is stopped there."""
    command_deadline: Seconds = 90.0
    """How long any command of a scheduler may take."""
    cancel_answer: Seconds = 5.0
    """How long a cancel, once it is stored, waits for clusters to hear of it before it answers."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, _Toml(settings_cls))


class _Toml(TomlConfigSettingsSource):
    """What config.toml says. Editors on Windows write a mark before the first byte, which TOML does not know."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:  # Any: what TOML holds
        return tomllib.loads(file_path.read_bytes().decode("utf-8-sig"))


class ClusterSettings(BaseModel):
    """One table of clusters.toml: a named place to run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheduler: str
    #: The template whose values are the defaults of this table: `hpcflow clusters sites` lists them.
    site: str | None = None
    #: How it is reached by ssh: an alias of ssh_config or a name, after ``user@`` if need be. Without it: from here.
    host: Annotated[str, Field(pattern=r"^([^@\s-][^@\s]*@)?[A-Za-z0-9][A-Za-z0-9_.:-]*$")] | None = None
    #: What logs in and carries everything: our own client, or `ssh` with the user's ControlMaster.
    transport: Literal["asyncssh", "openssh"] = "asyncssh"
    #: Commands that may run at once over its connection.
    channels: Annotated[int, Field(ge=1, le=10)] = 5
    #: Where the key lies that signs bags, on a cluster behind ssh: compute nodes must see it.
    keys: str | None = None
    #: Where bags lie: an absolute path that login and compute nodes both see. Behind ssh it may begin with ``~/``.
    workdir: str | None = None
    #: The interpreter of the workers; without it, or "auto": the one that dispatched, and behind ssh the one of the
    #: same minor version that is found there.
    python: str | None = None
    #: Lines of shell before the worker starts: modules, conda, scratch set-up.
    prologue: str = ""
    #: What tasks find without env=: modules, and one of conda environment, venv or Apptainer image.
    modules: tuple[Word, ...] = ()
    conda: Word | None = None
    venv: str | None = None
    container: str | None = None
    #: Folders that containers see besides hpcflow's own.
    binds: tuple[str, ...] = ()
    #: Defaults of tasks that say nothing.
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    walltime: Seconds | None = None
    memory_mib: Annotated[int, Field(gt=0), _in("MiB")] | None = None
    #: Further arguments of the submit command.
    extra: tuple[str, ...] = ()
    #: Array tasks of one array, at most.
    max_width: Annotated[int, Field(ge=1)] | None = None
    #: Tasks that one array task runs at once, each on cores of its own.
    slots: Annotated[int, Field(ge=1)] = 1
    #: The site gives whole nodes: an array task is one node, and runs as many tasks at once as fit there.
    whole_nodes: bool = False
    #: How srun tells MPI programs of each other, for electrons with ``launcher="srun"``: ``srun --mpi=list`` has them.
    srun_mpi: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")] | None = None
    #: Array tasks of hpcflow that run at once here, at most, over all dispatches.
    max_running: Annotated[int, Field(ge=1)] | None = None
    #: How long workers wait for more here, those with GPUs included.
    linger: Pause | None = None
    #: Floor of the accounting poll; never below the server's own.
    poll: Seconds | None = None

    @property
    def environment(self) -> Environment:
        """What a task finds that has no ``env=``, the prologue aside."""
        return Environment(
            modules=self.modules, conda=self.conda, venv=self.venv, container=self.container, binds=self.binds
        )


def read_settings(where: Places, overrides: Mapping[str, Any] | None = None) -> Settings:  # Any: checked by pydantic
    """Return the settings of one HPCFLOW_HOME.

    Raises:
        UserError: config.toml can't be read, or names an unknown setting or an impossible value.
    """

    class Located(Settings):
        model_config = SettingsConfigDict(toml_file=where.config)

    try:
        return Located(**(overrides or {}))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where.config} is not TOML: {error}") from None
    except ValidationError as error:
        raise UserError(f"{where.config} or the environment (HPCFLOW_*): {first_fault(error)}") from None


def read_clusters(where: Places) -> dict[str, ClusterSettings]:
    """Return the clusters that clusters.toml names, an empty mapping where there is no such file.

    Raises:
        UserError: the file can't be read, or a table holds an unknown key or an impossible value.
    """
    try:
        with open(where.clusters, "rb") as file:
            tables = tomllib.loads(file.read().decode("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where.clusters} can't be read: {error}") from None
    return {name: cluster_settings(f"{where.clusters}, [{name}]", name, table) for name, table in tables.items()}


def cluster_settings(at: str, name: str, table: object) -> ClusterSettings:
    """Return what a table says of one cluster.

    Args:
        at: where the table is, for a sentence.
        name: what the cluster shall be called.
        table: JSON or TOML.

    Raises:
        UserError: the name is none, or the table holds an unknown key or an impossible value.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{at}: a cluster can't be called {name!r}; use letters, digits, - and _.")
    try:
        settings = ClusterSettings.model_validate(_with_defaults(table))
    except ValidationError as error:
        raise UserError(f"{at}: {first_fault(error)}") from None
    except UserError as error:
        raise UserError(f"{at}: {error}") from None
    _check_places(at, name, settings)
    # What only the template says is not what the user set: a newer hpcflow may know better.
    own = set(table) if isinstance(table, dict) else settings.model_fields_set
    values = {field: getattr(settings, field) for field in ClusterSettings.model_fields}
    return ClusterSettings.model_construct(_fields_set=own, **values)


def _with_defaults(table: object) -> object:
    """Return a table with what its site's template says besides."""
    site = table.get("site") if isinstance(table, dict) else None
    return {**site_template(site).cluster, **table} if isinstance(table, dict) and isinstance(site, str) else table


def _check_places(at: str, name: str, table: ClusterSettings) -> None:
    """Raise `UserError` for a path that leads nowhere, or a key that means nothing beside the others."""
    if table.host is None and table.keys is not None:
        raise UserError(f"{at}: keys= is for clusters that are reached by ssh; this one has no host.")
    if table.host is None and table.transport != "asyncssh":
        raise UserError(f"{at}: transport= is for clusters that are reached by ssh; this one has no host.")
    if table.host is not None and name == "local":
        raise UserError(f"{at}: `local` is this machine; give a cluster behind ssh another name.")
    own = [key for key in ("conda", "venv", "container") if getattr(table, key) is not None]
    if len(own) > 1:
        raise UserError(f"{at}: {' and '.join(own)} each bring an interpreter; workers run under one of them.")
    if table.python not in (None, "auto") and own and own != ["container"]:
        raise UserError(f"{at}: {own[0]} brings an interpreter of its own; leave python= out.")
    for key in ("venv", "container"):
        path = getattr(table, key)
        fine = path is None or os.path.isabs(path) or (path.startswith("~/") if key == "venv" else "://" in path)
        if not fine or not (path or "").isprintable():
            raise UserError(f"{at}: {key} is {path!r}; write an absolute path.")
    if bad := [bind for bind in table.binds if not os.path.isabs(bind) or "," in bind or not bind.isprintable()]:
        raise UserError(f"{at}: binds has {bad[0]!r}; write absolute paths.")
    for key in ("workdir", "keys"):
        path = getattr(table, key)
        if path is None or os.path.isabs(path) or (table.host is not None and path.startswith("~/")):
            continue
        here = "write an absolute path" if table.host is None else "write an absolute path, or one that begins with ~/"
        raise UserError(f"{at}: {key} is {path!r}; {here}.")


def first_fault(error: ValidationError) -> str:
    """Say the first fault in words; more than one at a time helps nobody."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"there is no setting called {place!r}."
    if fault["type"] == "model_type" and not place:
        return f"{fault['input']!r} is no table of settings."
    return f"{place or 'the file'} is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}."

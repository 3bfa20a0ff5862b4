"""The tables of a run folder as views of an SQL database that can see nothing else."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.folder import open_folder
from cluster.generation_files import EVALUATIONS, evaluation_files
from cluster.schemas import OBJECTIVE_PREFIX, PARAMETER_PREFIX, check_version
from cluster.store import POOLED, RunStore
from jobs.errors import JobError, UsageError
from jobs.spec import parse_job

if TYPE_CHECKING:
    import pyarrow as pa

HALL_OF_FAME = "hall_of_fame"

_HALL_OF_FAME_FILE = re.compile(rf"^hall_of_fame/cell=[^/]+/(seed=\d+|{POOLED})\.parquet$")
_ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")


class RunTables:
    """Views ``evaluations``, ``hall_of_fame`` (one row a seed and rank) and ``pooled`` of a run folder.

    Made from what the folder holds at this moment; nothing is written, no lock is taken. DuckDB reads through
    pyarrow, so a run behind a URI is read like one on this machine, and DuckDB itself is given no access to
    any file.

    Parameters
    ----------
    root : str or Path
        A run folder, or its `pyarrow.fs` URI.

    Attributes
    ----------
    store : RunStore
    spec : FitSpec
        The job as the folder keeps it.
    parameters, objectives : dict of (cell, stage) to tuple of str
        Columns of each stage, without their prefix.

    Raises
    ------
    UsageError
        When `root` is not a run folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.store = existing_run(root)
        self.spec = parse_job(self.store.read_text("job.yaml") or "", f"{root}/job.yaml", "unnamed")
        self.parameters: dict[tuple[str, str], tuple[str, ...]] = {}
        self.objectives: dict[tuple[str, str], tuple[str, ...]] = {}
        self._files = _Files(root)
        self._connection = self._open()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query of our own."""
        import duckdb

        try:
            return self._connection.execute(sql, list(values)).fetchall()
        except duckdb.Error as error:
            raise JobError(f"{self.store.root}: its tables cannot be read ({_first_line(error)}).") from error

    def table(self, sql: str) -> "pa.Table":
        """Return the result of a user's query.

        Raises
        ------
        UsageError
            When it is not one SELECT, or SQL cannot make sense of it; names the columns there are.
        """
        import duckdb

        try:
            statements = self._connection.extract_statements(sql)
            kinds = [statement.type for statement in statements]
            if kinds != [duckdb.StatementType.SELECT]:
                found = ", ".join(kind.name for kind in kinds) or "nothing"
                raise UsageError(
                    f"--query: expected one SELECT (or DESCRIBE, SUMMARIZE), found {found}. A query "
                    "reads the run and changes nothing."
                )
            found = self._connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(f"--query: {self._explain(error)}") from error
        return found.rename_columns(_distinct(found.column_names))

    def _open(self) -> Any:
        import duckdb

        evaluations, halls = self._evaluations(), self._halls_of_fame()
        connection = duckdb.connect(config={"enable_external_access": "false"})
        connection.execute("set python_enable_replacements = false")
        connection.register(EVALUATIONS, evaluations)
        for name, dataset in halls.items():
            connection.register(name, dataset)
        connection.execute("set lock_configuration = true")
        return connection

    def _evaluations(self) -> Any:
        import pyarrow as pa
        import pyarrow.dataset as ds

        partitions = pa.schema([("cell", pa.string()), ("stage", pa.string()), ("seed", pa.int64())])
        names, schemas = [], []
        for key, files in evaluation_files(self._files.names(EVALUATIONS)).items():
            held = [name for _, name in files.to_read()]
            names += held
            schema = self._files.schema(held[0], EVALUATIONS)  # all files of one seed have the same columns
            schemas.append(schema)
            self._note_columns((key.cell, key.stage), schema)
        schema = pa.unify_schemas([partitions, *(schemas or [_empty_evaluations()])])
        if not names:
            return schema.empty_table()
        return self._files.dataset(names, schema, ds.partitioning(partitions, flavor="hive"))

    def _note_columns(self, stage: tuple[str, str], schema: "pa.Schema") -> None:
        for found, prefix in ((self.parameters, PARAMETER_PREFIX), (self.objectives, OBJECTIVE_PREFIX)):
            found[stage] = tuple(n.removeprefix(prefix) for n in schema.names if n.startswith(prefix))

    def _halls_of_fame(self) -> dict[str, Any]:
        import pyarrow as pa

        files: dict[str, list[str]] = {HALL_OF_FAME: [], POOLED: []}
        for name in self._files.names(HALL_OF_FAME):
            if match := _HALL_OF_FAME_FILE.match(name):
                files[POOLED if match[1] == POOLED else HALL_OF_FAME].append(name)
        found = {}
        for view, names in files.items():
            schemas = [self._files.schema(name, HALL_OF_FAME) for name in names]
            schema = pa.unify_schemas(schemas or [_empty_hall_of_fame()])
            found[view] = self._files.dataset(names, schema) if names else schema.empty_table()
        return found

    def _explain(self, error: Exception) -> str:
        message = _first_line(error)
        columns = [row[0] for row in self.rows(f"describe {EVALUATIONS}")]
        columns += [row[0] for row in self.rows(f"describe {HALL_OF_FAME}")]
        asked = re.findall(r'"([^"]+)"', str(error).split("\n")[0])
        bare = {column.partition(".")[2]: column for column in columns if "." in column}
        near = []
        for word in asked:
            near += difflib.get_close_matches(word, columns, n=3, cutoff=0.5)
            near += [bare[name] for name in difflib.get_close_matches(word, list(bare), n=3, cutoff=0.5)]
        if near:
            message += f" Near names: {', '.join(_quoted(name) for name in dict.fromkeys(near))}."
        plain = [c for c in dict.fromkeys(columns) if not c.startswith((PARAMETER_PREFIX, OBJECTIVE_PREFIX))]
        wide = [
            next((c for c in columns if c.startswith(p)), f"{p}…")
            for p in (PARAMETER_PREFIX, OBJECTIVE_PREFIX)
        ]
        return (
            f"{message} The views are {EVALUATIONS}, {HALL_OF_FAME} and {POOLED}; their columns "
            f"{', '.join(plain)}, and one for each parameter and objective, in double quotes because of "
            f"their dots, such as {' and '.join(_quoted(name) for name in wide)}. `describe {EVALUATIONS}` "
            "lists them all."
        )


class _Files:
    """The Parquet files of a run folder, wherever it is."""

    def __init__(self, root: str | Path) -> None:
        from pyarrow.fs import FileSystem, LocalFileSystem

        self._folder = open_folder(root)
        if "://" in str(root):
            self._filesystem, base = FileSystem.from_uri(str(root))
        else:
            self._filesystem, base = LocalFileSystem(), str(Path(root).absolute())
        self._base = base.rstrip("/")

    def names(self, folder: str) -> list[str]:
        return self._folder.names(folder)

    def schema(self, name: str, kind: str) -> "pa.Schema":
        """Return the columns of a file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            schema = pq.read_schema(f"{self._base}/{name}", filesystem=self._filesystem)
        except (pa.ArrowException, OSError) as error:
            raise JobError(
                f"{self._folder.root}/{name}: cannot be read as Parquet ({error}). Put back a good copy, or "
                "remove it (and later generations) and run the job again."
            ) from error
        check_version(schema, kind)
        return _plain(schema)

    def dataset(self, names: Sequence[str], schema: "pa.Schema", partitioning: Any = None) -> Any:
        import pyarrow.dataset as ds

        paths = [f"{self._base}/{name}" for name in names]
        return ds.dataset(
            paths, schema=schema, filesystem=self._filesystem, format="parquet", partitioning=partitioning
        )


def existing_run(root: str | Path) -> RunStore:
    """Return the store of a run folder.

    Raises
    ------
    UsageError
        When `root` is not one.
    """
    store = RunStore(root)
    if store.read_text("job.yaml") is None:
        raise UsageError(_not_a_run(str(root)))
    return store


def _empty_evaluations() -> "pa.Schema":
    import numpy as np

    from cluster.schemas import Evaluations

    none = np.empty((0, 0))
    return _plain(Evaluations(0, (), (), none, none, np.empty(0), (), (), np.empty(0)).to_table().schema)


def _empty_hall_of_fame() -> "pa.Schema":
    import numpy as np

    from cluster.schemas import HallOfFameRows

    none, nobody = np.empty((0, 0)), np.empty(0, int)
    return _plain(
        HallOfFameRows("", nobody, nobody, nobody, (), (), none, none, np.empty(0)).to_table().schema
    )


def _plain(schema: "pa.Schema") -> "pa.Schema":
    """Words as plain strings, no metadata: so all files agree."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in schema]
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the columns that a query gives one name."""
    return [f"{name}_{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def _not_a_run(root: str) -> str:
    path = Path(root)
    if "://" in root:
        found = "no job.yaml there"
    elif not path.exists():
        found = "no such folder"
    elif not path.is_dir():
        found = "a file"
    else:
        names = sorted(entry.name for entry in path.iterdir())
        found = ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "an empty folder"
    return (
        f"{root}: expected the folder of a run (job.yaml, provenance.json, evaluations/ …), as "
        f"`neurofleet run JOB.yaml --out OUT` makes it, found {found}. Give the folder that was named "
        "with --out."
    )


def _first_line(error: Exception) -> str:
    """Return what DuckDB says, without the excerpt of the query below it."""
    lines = [line.strip() for line in str(error).split("\nLINE ")[0].splitlines() if line.strip()]
    return _ADDRESS.sub("…", " ".join(lines)).rstrip(".") + "."


def _quoted(name: str) -> str:
    return f'"{name}"' if "." in name else name

"""Files of cells × genes of any format: what a file is, and its cells, genes and values."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from neurofleet.errors import CellsRefused
from neurofleet.learners.array_files import DAMAGED
from neurofleet.learners.cells.cell_matrix import FileSource, MemorySource, Source, open_group, whole_array
from neurofleet.learners.cells.expression_tables import read_parquet_matrix, read_text_matrix
from neurofleet.learners.cells.seurat_files import read_rds
from neurofleet.learners.text_dialect import TEXT_ENDINGS, text_dialect

IN_MEMORY_BYTES = 2**32
"""What cannot be streamed is read into memory when its values take no more than this."""

GENE_EXPRESSION = "Gene Expression"
"""The feature type of genes in files of 10x Genomics."""

Read = Callable[[np.ndarray], sp.csr_matrix]


@dataclass
class OpenedFile:
    """One file, or one AnnData in memory, before it is joined with others.

    Attributes
    ----------
    path : Path
    source : Source
    obs, var : DataFrame
        A row for each row and each column of the source.
    notes : list of str
    others : dict
        See `neurofleet.learners.cells.cell_matrix.MatrixPart`.
    no_genes : array of bool or None
        Columns of the source that hold something else, if there are any.
    """

    path: Path
    source: Source
    obs: pd.DataFrame
    var: pd.DataFrame
    notes: list[str]
    others: dict[str, Read] = field(default_factory=dict)
    no_genes: np.ndarray | None = None

    @property
    def left_out(self) -> np.ndarray:
        """Columns of the source that hold no gene, bool."""
        return np.zeros(len(self.var), dtype=bool) if self.no_genes is None else self.no_genes


CONVERT = {
    ".xlsx": "save the sheet as CSV",
    ".xls": "save the sheet as CSV",
    ".pkl": "pickles are never loaded, as they can run any code; write it again as h5ad or CSV",
    ".pickle": "pickles are never loaded, as they can run any code; write it again as h5ad or CSV",
    ".rdata": "in R: load(FILE); saveRDS(OBJECT, 'cells.rds')",
    ".rda": "in R: load(FILE); saveRDS(OBJECT, 'cells.rds')",
    ".robj": "in R: load(FILE); saveRDS(OBJECT, 'cells.rds')",
    ".qs": "in R: saveRDS(qs::qread(FILE), 'cells.rds')",
    ".feather": "in Python: pandas.read_feather(FILE).to_parquet('cells.parquet')",
    ".cloupe": "it has no counts for others to read; give filtered_feature_bc_matrix.h5 of the same Cell Ranger run",
    ".bam": "count genes first (Cell Ranger, STARsolo, alevin-fry)",
    ".tar": "unpack it first: tar xf FILE",
    ".tgz": "unpack it first: tar xf FILE",
    ".npz": "in Python: anndata.AnnData(scipy.sparse.load_npz(FILE), obs, var).write_h5ad('cells.h5ad')",
    ".mat": "write the counts, with the names of cells and genes, as CSV or h5ad",
    ".h5mu.gz": "gunzip FILE",
    ".loom.gz": "gunzip FILE",
    ".h5.gz": "gunzip FILE",
}
"""Ending of a file -> the one line that makes of it what can be read."""

EXPECTED = "h5ad, zarr, 10x .h5 or mtx folder, loom, h5mu, h5Seurat, Seurat .rds, Parquet, csv or tsv"


def open_file(path: Path, layer: str) -> OpenedFile:
    """Open a file or folder of cells × genes.

    Parameters
    ----------
    layer : str
        "X", "raw", or the name of a layer.

    Raises
    ------
    CellsRefused
        If it is not there, of no format that is known, damaged, or has no such layer.
    """
    name = path.name.lower()
    if not path.exists():
        raise CellsRefused(f"{path}: no such file. Expected {EXPECTED} of cells × genes.")
    for ending, advice in CONVERT.items():
        if name.endswith(ending) or name.endswith(f"{ending}.gz"):
            raise CellsRefused(f"{path}: {ending.removesuffix('.gz')} is not read. To convert it, {_at(advice, path)}.")
    try:
        return _format_of(path, name)(path, layer)
    except DAMAGED as error:
        if isinstance(error, CellsRefused):
            raise
        raise CellsRefused(
            f"{path}: cannot be read, it is damaged or only partly copied ({type(error).__name__}: {error})."
        ) from error


def _at(advice: str, path: Path) -> str:
    return advice.replace("FILE", repr(str(path)) if "(FILE" in advice else str(path))


def _format_of(path: Path, name: str) -> Callable[[Path, str], OpenedFile]:
    """Return what opens a file, by its content, and where that leaves a choice by its name."""
    if path.is_dir() and _mtx_files(path):
        return _open_mtx
    if path.is_dir():
        there = sorted(one.name for one in path.iterdir())
        if not {".zgroup", ".zattrs", ".zmetadata", "zarr.json"} & set(there):
            raise CellsRefused(
                f"{path}: expected {EXPECTED}, found a folder of {', '.join(there[:8]) or 'nothing'}: neither zarr nor"
                " matrix.mtx with barcodes.tsv and features.tsv. Give the file in it that holds cells × genes."
            )
        return _open_group
    with open(path, "rb") as file:
        start = file.read(8)
    if name.endswith((".mtx", ".mtx.gz")):
        return _open_mtx
    if start.startswith(b"PAR1"):
        return _open_parquet
    if start.startswith(b"\x89HDF"):
        return _open_group
    if start.startswith(b"PK"):
        return _open_group
    if name.endswith(".rds"):
        return _open_rds
    if start.startswith(b"\x1f\x8b") and name.endswith((".h5ad.gz", ".h5ad")):
        return _open_gzipped
    if name.endswith(TEXT_ENDINGS):
        return _open_text
    if name.endswith((".h5ad", ".h5", ".loom", ".h5mu", ".h5seurat", ".zarr", ".zip")):
        return _open_group
    try:
        text_dialect(path)
    except (ValueError, EOFError):
        raise CellsRefused(f"{path}: expected {EXPECTED}, found something else. Convert it to one of these.") from None
    return _open_text


def _open_text(path: Path, layer: str) -> OpenedFile:
    return _table(path, layer, read_text_matrix)


def _open_parquet(path: Path, layer: str) -> OpenedFile:
    return _table(path, layer, read_parquet_matrix)


def _table(path: Path, layer: str, read: Callable[[Path], tuple[MemorySource, pd.Index, pd.Index]]) -> OpenedFile:
    if layer != "X":
        raise CellsRefused(f"{path}: a table has no layer {layer!r}; only files such as h5ad, zarr and loom have.")
    table, cell_ids, genes = read(path)
    return OpenedFile(path, table, pd.DataFrame(index=cell_ids), pd.DataFrame(index=genes), [])


def _open_rds(path: Path, layer: str) -> OpenedFile:
    values, obs, genes = read_rds(path, layer)
    var, notes = pd.DataFrame(index=genes), [f"{path.name}: read into memory, as a file of R has to be."]
    _check_size(path, "the matrix", values.shape, obs, var)
    return OpenedFile(path, MemorySource(values), obs, var, notes)


def _open_gzipped(path: Path, layer: str) -> OpenedFile:
    """Open a gzipped h5ad file: it has to be unpacked as a whole, into memory."""
    content = io.BytesIO()
    with gzip.open(path) as packed:
        while block := packed.read(1 << 24):
            if content.tell() + len(block) > IN_MEMORY_BYTES:
                raise CellsRefused(
                    f"{path}: more than {IN_MEMORY_BYTES / 2**30:.0f} GB unpacked, too much for memory: gunzip {path}"
                )
            content.write(block)
    with h5py.File(content, "r") as group:
        opened = _anndata(path, group, layer, "", in_memory=True)
    opened.notes.append(f"{path.name}: unpacked into memory; unpacked on disk (gunzip) it is read as it is needed.")
    return opened


def _open_group(path: Path, layer: str) -> OpenedFile:
    """Open an HDF5 file or a zarr folder by what is in it."""
    group = open_group(path)
    content = set(group.keys())
    if "row_attrs" in content and "matrix" in content:
        return _loom(path, group, layer)
    if "mod" in content:
        return _mudata(path, group, layer)
    if "assays" in content and "cell.names" in content:
        return _h5seurat(path, group, layer)
    if "barcode_idx" in content and "umi" in content:
        raise CellsRefused(
            f"{path}: molecules of Cell Ranger (molecule_info), found no matrix. Give filtered_feature_bc_matrix.h5."
        )
    genomes = [name for name in group.keys() if _is_10x(group, name)] if "obs" not in content else []
    if genomes:
        return _tenx(path, group, genomes, layer)
    return _anndata(path, group, layer, "")


def _is_10x(group: Any, name: str) -> bool:
    part = group[name]
    return hasattr(part, "keys") and {"barcodes", "data", "indices", "indptr", "shape"} <= set(part.keys())


def _anndata(path: Path, group: Any, layer: str, prefix: str, in_memory: bool = False) -> OpenedFile:
    """Open an AnnData, below `prefix` in a file ("" or "mod/rna/")."""
    place = group[prefix] if prefix else group
    obs, var = _frame(path, place, "obs"), _frame(path, place, "var")
    layers = {"X": f"{prefix}X"} if "X" in place else {}
    layers |= {"raw": f"{prefix}raw/X"} if "raw/X" in place else {}
    layers |= {"raw": f"{prefix}raw.X"} if "raw.X" in place else {}
    layers |= {name: f"{prefix}layers/{name}" for name in sorted(place["layers"].keys())} if "layers" in place else {}
    element = _layer(path, layer, layers)
    if layer == "raw":
        var = _frame(path, place["raw"], "var") if "raw/X" in place else _frame(path, place, "raw.var")
    if in_memory:
        source: Source = _memory_source(path, group, element)
        return OpenedFile(path, source, obs, var, [])
    return _streamed(path, element, layers, obs, var, turned=False)


def _layer(path: Path, layer: str, layers: dict[str, str]) -> str:
    """Take the place of a layer out of those that a file has."""
    if layer not in layers:
        raise CellsRefused(f"{path}: found no layer {layer!r}. It has {', '.join(layers) or 'no values at all'}.")
    return layers.pop(layer)


def _streamed(
    path: Path, element: str, layers: Mapping[str, str], obs: pd.DataFrame, var: pd.DataFrame, *, turned: bool
) -> OpenedFile:
    file = FileSource(path, element, turned)
    _check_size(path, element, file.shape, obs, var)
    others: dict[str, Read] = {name: partial(_read_other, path, place, turned) for name, place in layers.items()}
    opened = OpenedFile(path, file, obs, var, [], others)
    if file.by_columns:
        opened.source = file.read_whole()
        opened.notes.append(f"{path.name}: stored by columns (CSC), so it was read into memory and turned.")
    return opened


def _check_size(path: Path, element: str, shape: tuple[int, int], obs: pd.DataFrame, var: pd.DataFrame) -> None:
    if shape != (len(obs), len(var)):
        raise CellsRefused(
            f"{path}: {element} has {shape[0]} × {shape[1]} values, but there are names of {len(obs)} cells and"
            f" {len(var)} genes. The file is damaged; write it again."
        )


def _read_other(path: Path, element: str, turned: bool, rows: np.ndarray) -> sp.csr_matrix:
    source = FileSource(path, element, turned)
    return (source.read_whole() if source.by_columns else source).read(rows)


def _memory_source(path: Path, group: Any, element: str) -> MemorySource:
    from anndata.io import read_elem

    matrix = read_elem(group[element])
    return MemorySource(sp.csr_matrix(matrix, dtype=np.float32) if sp.issparse(matrix) else matrix.astype(np.float32))


def _frame(path: Path, group: Any, name: str) -> pd.DataFrame:
    """Read obs or var; also as anndata wrote them before version 0.7."""
    from anndata.io import read_elem

    if name not in group:
        raise CellsRefused(
            f"{path}: expected {EXPECTED}, found no {name!r} in it (it holds"
            f" {', '.join(sorted(group.keys())[:20]) or 'nothing'})."
        )
    stored = group[name]
    if isinstance(stored, h5py.Dataset) and stored.dtype.names:
        table = _old_frame(stored, group.get("uns"))
    else:
        _refuse_hollow(stored)
        try:
            table = read_elem(stored)
        except Exception as error:  # whatever anndata stumbles over in a damaged file
            raise CellsRefused(f"{path}: {name!r} cannot be read, the file is damaged ({error}).") from error
    if not isinstance(table, pd.DataFrame):
        raise CellsRefused(f"{path}: {name!r} is not a table. Read the file with anndata and write it again.")
    table.index = table.index.astype(str)
    return table


def _refuse_hollow(group: Any) -> None:
    """Refuse arrays that claim far more than they hold, before they are read."""
    if not isinstance(group, h5py.Group):
        return

    def check(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.size and item.size > 1 << 22:
            whole_array(item)

    group.visititems(check)


def _old_frame(stored: h5py.Dataset, uns: Any) -> pd.DataFrame:
    """Read a table as one array of records; categories are in ``uns`` under the name of their column."""
    records = whole_array(stored)
    columns = {name: _words(records[name]) for name in records.dtype.names or ()}
    index = next((name for name in ("index", "_index") if name in columns), next(iter(columns)))
    table = pd.DataFrame(columns).set_index(index)
    for name in table.columns:
        if uns is not None and f"{name}_categories" in uns:
            categories = _words(whole_array(uns[f"{name}_categories"]))
            codes = table[name].to_numpy(np.int64)
            table[name] = pd.Categorical.from_codes(codes, pd.Index(categories).astype(str))
    return table


def _words(values: np.ndarray) -> np.ndarray:
    """Return text of an array of bytes; other arrays as they are."""
    if values.dtype.kind == "S" or (values.dtype.kind == "O" and len(values) and isinstance(values[0], bytes)):
        return np.array([value.decode("utf-8", errors="replace") for value in values.tolist()], dtype=object)
    return values


def _names(group: Any, name: str) -> pd.Index:
    return pd.Index(_words(whole_array(group[name])).astype(str).astype(object))


def _unique(path: Path, names: pd.Index, notes: list[str]) -> pd.Index:
    """Number names that stand for several genes, as scanpy does, and say so."""
    from anndata.utils import make_index_unique

    n_twice = int(names.duplicated().sum())
    if not n_twice:
        return names
    notes.append(
        f"{path.name}: {n_twice} gene names occurred before; they are numbered as scanpy does (NAME-1). To name genes"
        " otherwise, give a column of var as --gene-names, such as gene_ids."
    )
    return make_index_unique(names)


def _tenx(path: Path, group: Any, genomes: list[str], layer: str) -> OpenedFile:
    """Open an .h5 file of Cell Ranger: version 3 has one matrix, version 2 one a genome."""
    chosen = genomes[0] if layer == "X" and len(genomes) == 1 else layer
    if chosen not in genomes:
        raise CellsRefused(
            f"{path}: found no layer {layer!r}. A 10x file, it has {', '.join(genomes)}"
            f"{'; choose one as layer (--layer)' if len(genomes) > 1 else ''}."
        )
    stored = group[chosen]
    notes: list[str] = []
    if "features" in stored:
        features = stored["features"]
        ids, symbols = _names(features, "id"), _names(features, "name")
        more = {"feature_types": "feature_type", "genome": "genome"}
        var = pd.DataFrame(
            {"gene_ids": ids} | {new: _names(features, old) for new, old in more.items() if old in features}
        )
    else:
        ids, symbols = _names(stored, "genes"), _names(stored, "gene_names")
        var = pd.DataFrame({"gene_ids": ids})
    var.index = _unique(path, symbols, notes)
    obs = pd.DataFrame(index=_names(stored, "barcodes"))
    opened = _streamed(path, chosen, {}, obs, var, turned=True)
    opened.notes += notes
    return _genes_only(opened)


def _genes_only(opened: OpenedFile) -> OpenedFile:
    """Leave out features of 10x that are no genes: antibodies, guides, peaks."""
    if "feature_types" in opened.var:
        kinds = opened.var["feature_types"].astype(str)
        others = (kinds != GENE_EXPRESSION).to_numpy(bool)
        if others.any() and not others.all():
            opened.no_genes = others
            words = ", ".join(sorted(kinds[others].unique())[:3])
            opened.notes.append(f"{opened.path.name}: {others.sum():,} features are no genes ({words}); left out.")
    return opened


def _loom(path: Path, group: Any, layer: str) -> OpenedFile:
    """Open a loom file: genes × cells, read by columns."""
    notes: list[str] = []
    rows, columns = _attributes(group, "row_attrs"), _attributes(group, "col_attrs")
    var = rows.set_index(
        _first(rows, ("var_names", "Gene", "gene", "gene_name", "gene_names", "GeneName", "Accession"))
    )
    obs = columns.set_index(_first(columns, ("CellID", "obs_names", "cell_names", "barcode", "Barcode", "cell_id")))
    var.index = _unique(path, var.index.astype(str), notes)
    obs.index = obs.index.astype(str)
    layers = {"X": "matrix"}
    layers |= {name: f"layers/{name}" for name in sorted(group["layers"].keys())} if "layers" in group else {}
    opened = _streamed(path, _layer(path, layer, layers), layers, obs, var, turned=True)
    opened.notes += notes
    return opened


def _attributes(group: Any, name: str) -> pd.DataFrame:
    """Read the one-dimensional arrays of a group as a table."""
    arrays = {key: item for key, item in group[name].items() if isinstance(item, h5py.Dataset) and item.ndim == 1}
    return pd.DataFrame({key: _words(whole_array(item)) for key, item in arrays.items()})


def _first(table: pd.DataFrame, names: tuple[str, ...]) -> str:
    known = [name for name in names if name in table]
    if not known:
        raise CellsRefused(
            f"A loom file needs names of genes and cells: expected one of {', '.join(names)}, found"
            f" {', '.join(map(str, table.columns)) or 'nothing'}."
        )
    return known[0]


def _mudata(path: Path, group: Any, layer: str) -> OpenedFile:
    """Open the gene expression of an h5mu file."""
    known = list(group["mod"].keys())
    genes = [name for name in known if name.lower() in ("rna", "gex", "gene", "genes", "expression")]
    chosen = genes if genes else known
    if len(chosen) != 1:
        raise CellsRefused(
            f"{path}: expected one modality of gene expression, found {', '.join(known) or 'none'}. Write it as a file"
            f" of its own: mudata.read({str(path)!r}).mod['NAME'].write_h5ad('cells.h5ad')."
        )
    opened = _anndata(path, group, layer, f"mod/{chosen[0]}/")
    if "obs" in group:
        shared = _frame(path, group, "obs")
        shared.columns = [str(name).removeprefix(f"{chosen[0]}:") for name in shared.columns]
        more = shared.loc[:, ~shared.columns.isin(opened.obs.columns) & ~shared.columns.duplicated()]
        opened.obs = opened.obs.join(more)
    if len(known) > 1:
        left = ", ".join(name for name in known if name != chosen[0])
        opened.notes.append(f"{path.name}: the modality {chosen[0]!r} is used; {left} left out.")
    return _genes_only(opened)


def _h5seurat(path: Path, group: Any, layer: str) -> OpenedFile:
    """Open the default assay of an h5Seurat file."""
    assays = group["assays"]
    active = group.attrs.get("active.assay", [])
    name = _text_of(active) if len(active) else ""
    name = name if name in assays else next((one for one in ("RNA", *assays.keys()) if one in assays), "")
    if not name:
        raise CellsRefused(f"{path}: an h5Seurat file without an assay.")
    assay = assays[name]
    var = pd.DataFrame(index=_names(assay, "features"))
    table = {}
    for column in group["meta.data"].keys() if "meta.data" in group else ():
        item = group["meta.data"][column]
        if isinstance(item, h5py.Group) and {"levels", "values"} <= set(item.keys()):
            levels, codes = _names(item, "levels"), whole_array(item["values"]).astype(np.int64) - 1
            table[column] = pd.Series(levels.to_numpy()[np.maximum(codes, 0)]).where(codes >= 0).to_numpy()
        elif isinstance(item, h5py.Dataset) and column not in ("_index", "__index__"):
            table[column] = _words(whole_array(item))
    obs = pd.DataFrame(table, index=_names(group, "cell.names"))
    layers = {part: f"assays/{name}/{part}" for part in ("counts", "data") if part in assay}
    if "counts" in layers or "data" in layers:
        first = "counts" if "counts" in layers else "data"
        layers = {"X": layers.pop(first), **layers}
    return _streamed(path, _layer(path, layer, layers), layers, obs, var, turned=True)


def _text_of(value: Any) -> str:
    value = value[0] if isinstance(value, np.ndarray | list) else value
    return value.decode() if isinstance(value, bytes) else str(value)


MTX_NAMES = (
    ("barcodes.tsv", ("features.tsv", "genes.tsv"), True),
    ("cells_x_genes.barcodes.txt", ("cells_x_genes.genes.txt",), False),
    ("quants_mat_rows.txt", ("quants_mat_cols.txt",), False),
)
"""Names of the files of cells and of genes beside a matrix, and whether it is genes × cells: 10x and STARsolo,
kallisto, alevin-fry. They may have something in front, as in GEO, and .gz behind."""


def _mtx_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith((".mtx", ".mtx.gz")))


def _open_mtx(path: Path, layer: str) -> OpenedFile:
    """Open a folder of matrix.mtx, barcodes.tsv and features.tsv (or genes.tsv), or its matrix."""
    if layer != "X":
        raise CellsRefused(f"{path}: a folder of mtx has no layer {layer!r}.")
    matrices = _mtx_files(path) if path.is_dir() else [path]
    if len(matrices) > 1:
        names = ", ".join(one.name for one in matrices[:5])
        raise CellsRefused(
            f"{path}: expected one matrix, found {len(matrices)} ({names}). Give one of them as the file."
        )
    matrix = matrices[0]
    cells, genes, by_genes = _beside(matrix)
    rows, columns, n_values = _mtx_size(matrix)
    if 12 * n_values > IN_MEMORY_BYTES:
        raise CellsRefused(
            f"{matrix}: {n_values:,} values take about {12 * n_values / 1e9:.0f} GB, too much for memory, and an mtx"
            f" file cannot be read in parts. Convert it: scanpy.read_10x_mtx({str(path)!r}).write_h5ad('cells.h5ad')."
        )
    found = scipy.io.mmread(matrix)  # of an opened file it ends the process
    notes: list[str] = []
    obs, var = pd.DataFrame(index=_lines(cells).iloc[:, 0].astype(str)), _features(genes)
    obs.index.name = None
    var.index = _unique(matrix, var.index, notes)
    if by_genes and (rows, columns) == (len(obs), len(var)) and rows != columns:
        by_genes = False
    values = sp.csr_matrix(found.T if by_genes else found, dtype=np.float32)
    _check_size(matrix, "the matrix", values.shape, obs, var)
    return _genes_only(OpenedFile(path, MemorySource(values), obs, var, notes))


def _mtx_size(matrix: Path) -> tuple[int, int, int]:
    """Return rows, columns and stored values of a matrix, from its header.

    Raises
    ------
    CellsRefused
        If it has no such header, or is gzipped and not called so.
    """
    with _unpacked(matrix) as file:
        packed, first = isinstance(file, gzip.GzipFile), file.readline(1000)
        line = file.readline(10000)
        while line.startswith(b"%"):
            line = file.readline(10000)
    if not first:
        raise CellsRefused(f"{matrix}: expected a sparse MatrixMarket file, found it empty. Copy or download it again.")
    if packed != matrix.name.lower().endswith(".gz"):
        raise CellsRefused(
            f"{matrix}: it is{'' if packed else ' not'} gzipped, and its name says otherwise. Rename it."
        )
    words = line.split()
    if not first.startswith(b"%%MatrixMarket matrix coordinate") or not all(word.isdigit() for word in words):
        raise CellsRefused(f"{matrix}: expected a sparse MatrixMarket file, found {first[:60]!r}.")
    rows, columns, n_values = (int(word) for word in words)
    return rows, columns, n_values


def _beside(matrix: Path) -> tuple[Path, Path, bool]:
    """Find the names of cells and genes beside a matrix."""
    there = {one.name.lower(): one for one in matrix.parent.iterdir()}
    stem = matrix.name.lower().removesuffix(".gz").removesuffix(".mtx")
    prefix = stem[: -len("matrix")] if stem.endswith("matrix") else ""
    for cells, genes, by_genes in MTX_NAMES:
        for front in dict.fromkeys((prefix, "")):
            barcodes = [there[one] for one in (front + cells, f"{front}{cells}.gz") if one in there]
            features = [there[one] for name in genes for one in (front + name, f"{front}{name}.gz") if one in there]
            if barcodes and features:
                return barcodes[0], features[0], by_genes
    raise CellsRefused(
        f"{matrix.parent}: expected barcodes.tsv and features.tsv (or genes.tsv; also .gz) beside {matrix.name}, found"
        f" {', '.join(sorted(there)[:8])}."
    )


def _unpacked(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")  # type: ignore[return-value]


def _lines(path: Path) -> pd.DataFrame:
    with _unpacked(path) as file:
        return pd.read_csv(file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)


def _features(path: Path) -> pd.DataFrame:
    """Read the genes: id, symbol and kind; or one name each."""
    table = _lines(path)
    if table.shape[1] == 1:
        return pd.DataFrame(index=pd.Index(table[0]))
    var = pd.DataFrame({"gene_ids": table[0]})
    if table.shape[1] > 2:
        var["feature_types"] = table[2]
    return var.set_index(pd.Index(table[1]))

"""``neurofleet relabel``: another threshold for predictions that are there, without model or cells."""

from pathlib import Path

from jobs.errors import UsageError


def relabel_command(
    predictions: Path,
    unknown_below: float | None,
    coverage: float | None,
    out: Path | None,
    overwrite: bool,
) -> None:
    """Set which cells are of unknown type, and their labels; all else stays as it is.

    Parameters
    ----------
    predictions : Path
        A table that `neurofleet predict` wrote. The CSV file that was written with it is written again too.
    unknown_below, coverage : float or None
        See `jobs.predict.threshold`.
    out : Path, optional
        Where the table goes, with ``--overwrite`` in place of another; by default it is changed in place.

    Raises
    ------
    UsageError
        If the file holds no predictions, or the threshold cannot be found; nothing is changed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs.new_files import check_new, new_files
    from jobs.predict.command import table_writers
    from jobs.predict.summary import Summary
    from jobs.predict.table import about_of, labels, with_about
    from jobs.predict.threshold import threshold_for

    if unknown_below is None and coverage is None:
        raise UsageError("Give --unknown-below or --coverage: relabel changes nothing else.")
    try:
        file = pq.ParquetFile(predictions)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{predictions} cannot be read as a Parquet file ({error}).") from None
    with file:
        about = about_of(file.schema_arrow, predictions)
        about["threshold"] = threshold_for(unknown_below, coverage, about, str(predictions))
        columns = with_about(file.schema_arrow, about)
        summary = Summary(about["classes"], about)
        target = out or predictions
        has_csv = out is None and about["csv"] and predictions.with_suffix(".csv").exists()
        csv = predictions.with_suffix(".csv") if has_csv else None
        if out is not None:
            check_new([out], overwrite, [predictions])
        with new_files([target, *([csv] if csv else [])]) as partial:
            with table_writers(partial[target], partial[csv] if csv else None, columns) as write:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number)
                    changed = labels(
                        table["pred_0"].to_numpy(), table["prob_0"].to_numpy(), about["threshold"]
                    )
                    for name, values in changed.items():
                        place = table.schema.get_field_index(name)
                        table = table.set_column(place, columns.field(name), pa.array(values))
                    table = table.replace_schema_metadata(columns.metadata)
                    write(table)
                    summary.add(table)
    summary.print([target, *([csv] if csv else [])])

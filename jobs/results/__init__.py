"""What a run folder holds: summaries, tables, SQL."""

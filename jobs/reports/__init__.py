"""Reports: HTML pages with the pictures of a run."""

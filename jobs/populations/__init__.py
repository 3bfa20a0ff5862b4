"""What jobs over populations of models have in common: where models come from, and their evaluation."""

"""``kind: analyse``: populations of models against what is known of their cells."""

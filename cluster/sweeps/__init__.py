"""Parameter sweeps under Ray Tune."""

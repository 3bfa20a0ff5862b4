"""HIPPIE: spike-sorted units embedded and named from waveform and spike timing."""

"""Spike-sorted units from files: checked, brought to one form, described by hand and scaled for networks."""

"""The e-features of recipes for many individuals at once, equal to eFEL's on the same voltages."""

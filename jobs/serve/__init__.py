"""The web pages and the REST interface over the runs below a folder: ``neurofleet serve``."""

"""Cells × genes matrices: opened, checked, aligned, normalised and streamed, whatever learns from them."""

"""A fitted cell as a SONATA network of one node, which BMTK's BioNet runs with the same voltage."""

from neurosim.sonata.network import Clamp, write_sonata

__all__ = ["Clamp", "write_sonata"]

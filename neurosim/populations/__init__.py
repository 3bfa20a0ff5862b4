"""What populations of fitted models say about cells and classes of cells."""

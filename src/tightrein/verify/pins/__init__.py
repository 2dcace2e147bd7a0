"""The exact properties of the methods, by family."""

"""Songs: what there is, where it is, and how it is read."""

"""Data: what a batch is, and every way to get one. ``load.load_data`` for recipes, ``arrays.from_arrays`` at hand."""

"""The data sets of the package, one file each with a function ``load``."""

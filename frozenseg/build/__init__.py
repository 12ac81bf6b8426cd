"""A configuration as objects: the only part of the package that reads one."""

"""A page and an HTTP service around one model: `frozenseg serve`."""

"""An HTTP service for one model, with a web page: `frozenseg serve`."""

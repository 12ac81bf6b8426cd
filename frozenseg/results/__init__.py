"""The result of a call, and its forms for other tools."""

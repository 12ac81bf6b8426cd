"""Draws results on their images: colours, fonts and labels, legends, outlines."""

"""The result of segmenting an image, and its conversion to the formats of other tools."""

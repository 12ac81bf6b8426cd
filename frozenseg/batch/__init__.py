"""Segment folders of millions: a manifest of the images, and their results as Parquet shards.

`frozenseg batch` writes such a folder, and `read_rows` reads it.
"""

from frozenseg.batch.rows import detections_of, read_rows

__all__ = ["detections_of", "read_rows"]

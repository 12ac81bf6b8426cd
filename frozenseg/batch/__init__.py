"""Segment millions of images: a manifest lists the images, and Parquet shards hold the results.

`frozenseg batch` writes a folder with both, and `read_rows` reads it.
"""

from frozenseg.batch.rows import detections_of, read_rows

__all__ = ["detections_of", "read_rows"]

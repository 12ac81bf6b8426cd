"""Read images without annotation, whose predictions can be kept for a server but not scored:
"images:LIST:IMAGE_DIR".

LIST is a JSON with the `images` and `categories` of COCO, such as its image_info files, or a list
of class names, for all images of the folder.
"""

from pathlib import Path

from frozenseg.data.benchmarks.class_names import categories_of_files
from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.coco_json import read_images
from frozenseg.data.folders import files_by_stem, require_files
from frozenseg.data.image_files import image_suffixes
from frozenseg.data.readers import coco_name
from frozenseg.data.records import Categories, Record
from frozenseg.errors import UserError
from frozenseg.files import read_json


def read_unlabelled(benchmark: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    """Read the records and categories of a row of images without annotation."""
    categories, folder = categories_of_files(benchmark, root), root / benchmark.images
    if not benchmark.annotations:
        stems = files_by_stem(folder, tuple(image_suffixes()), "images")
        if not stems:
            raise UserError(f"{folder}: holds no images; copy them there, or correct the path")
        return [
            Record(stem, str(path), None, None, len(categories)) for stem, path in stems.items()
        ], categories
    source = str(root / benchmark.annotations)
    images = read_images(read_json(source), source)
    records = [
        Record(
            image.image_id,
            str(folder / coco_name(image.entry, f"{source}: images[{position}]")),
            image.height,
            image.width,
            len(categories),
        )
        for position, image in enumerate(images.values())
    ]
    require_files([record.image_path for record in records], "images", Path(source))
    return records, categories

"""Segment an image with a model from `frozenseg export`, without FrozenSeg and without PyTorch.

python segment.py model.onnx model.vectors.npz image.png result.png

The first file is the model, and the second one contains the text vectors of the class names. The
script needs numpy, Pillow and onnxruntime.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, vectors, source, target = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["frozenseg"])
words = dict(np.load(vectors))  # names, vectors, class_index, seen, is_thing

# Resize the image to fit the window, and place it at the top left.
image, window = ImageOps.exif_transpose(Image.open(source)).convert("RGB"), about["window"]
scale = min(window[0] / image.height, window[1] / image.width)
height, width = (max(1, round(length * scale)) for length in (image.height, image.width))
pixels = np.zeros((1, 3, *window), dtype=np.float32)
resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
pixels[0, :, :height, :width] = resized.transpose(2, 0, 1)

inputs = {"pixels": pixels, "size": np.array([height, width]), **words}
taken = {entry.name: inputs[entry.name] for entry in session.get_inputs()}
ids, classes, scores = session.run(["panoptic_ids", "segment_classes", "segment_scores"], taken)
ids = ids[:height, :width]

names = [words["names"][words["class_index"] == number][0] for number in range(len(words["seen"]))]
for number in range(1, ids.max() + 1):
    share = (ids == number).mean()
    print(f"{names[classes[number - 1]]}: {100 * share:.1f} % ({scores[number - 1]:.2f})")
colours = np.random.default_rng(0).integers(64, 256, (ids.max() + 1, 3), dtype=np.uint8)
colours[0] = 0
Image.fromarray(colours[ids]).resize(image.size, Image.Resampling.NEAREST).save(target)

"""Open-vocabulary segmentation: an image and a list of names in, masks for them out."""

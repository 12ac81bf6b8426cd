"""Training of the small frozen encoders, CLIP and SAM, on the small world."""

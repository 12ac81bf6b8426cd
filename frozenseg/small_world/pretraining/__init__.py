"""Training of the small frozen encoders (CLIP, SAM, ViT and BERT) on the small world."""

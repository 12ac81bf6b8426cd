"""Frozen encoders: CLIP, SAM, DINO, MoCo v3 and BERT, each behind a small common interface."""

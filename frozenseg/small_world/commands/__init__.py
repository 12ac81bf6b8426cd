"""The commands of the small world: its files, its small CLIP and SAM, its experiments."""

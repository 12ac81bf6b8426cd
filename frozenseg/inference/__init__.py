"""From images to results: resizing, post-processing, and SAM's masks at inference."""

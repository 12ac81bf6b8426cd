"""Weight files: downloads, published names, strict loading, frozen parts, training checkpoints."""

"""Class names: parsing them, joining lists of them, and turning them into text embeddings."""

"""Results as pictures: colours, letters, masks over an image."""

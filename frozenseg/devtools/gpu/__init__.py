"""What `frozenseg measure_gpu` measures on a card, section by section."""

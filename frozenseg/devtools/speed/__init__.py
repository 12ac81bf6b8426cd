"""How long the stages of prediction and training take, and how much memory: frozenseg benchmark."""

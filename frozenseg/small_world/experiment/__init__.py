"""Experiments in the small world: arms that differ by one thing, trained in pairs and compared."""

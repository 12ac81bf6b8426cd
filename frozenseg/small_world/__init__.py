"""A generated world of things on textured grounds, with exact truth.

Data flow: nouns, colours and patterns, grounds -> scene -> captions, files on disk.
"""

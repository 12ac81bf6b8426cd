"""Our models and data sets under other frameworks."""

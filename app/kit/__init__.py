"""Parts that could live in another project."""

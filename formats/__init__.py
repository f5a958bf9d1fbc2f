"""The official formats, one a file: each reads its files into the table."""

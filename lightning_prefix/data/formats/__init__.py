"""Formats of single fields: question answering and translation; one file a format."""

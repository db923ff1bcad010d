"""Shared helpers without knowledge of networks or data: errors, files, text, progress."""

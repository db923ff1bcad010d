"""The version, in a separate file so that setup.py can read it without importing the dependencies."""

__version__ = '0.1.0'

"""Throttles beside other libraries: a file for each, to be copied; see the README of this folder.

``python -m tests.recipes`` tests all of them, each with its library where that is installed.
"""

"""Shim: the metadata lies in setup.cfg."""

from setuptools import setup

setup()

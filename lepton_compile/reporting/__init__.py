"""Reporting: what was decided about a model and why, for people."""

from lepton_compile.reporting.page import page
from lepton_compile.reporting.sections import Section, sections

__all__ = ["Section", "page", "sections"]

"""Spectrum LSF for hpcflow: bsub, bjobs, bhist, bkill and bqueues as commands out and replies in."""

from hpcflow_lsf.plugin import LsfPlugin

__all__ = ["LsfPlugin"]

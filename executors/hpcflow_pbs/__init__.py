"""OpenPBS and PBS Pro for hpcflow: qsub, qstat, qselect, qdel and pbsnodes as commands out and replies in."""

from hpcflow_pbs.plugin import PbsPlugin

__all__ = ["PbsPlugin"]

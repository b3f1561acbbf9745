"""Slurm for hpcflow: sbatch, squeue, sacct, scancel and sinfo as commands out and replies in."""

from hpcflow_slurm.plugin import SlurmPlugin

__all__ = ["SlurmPlugin"]

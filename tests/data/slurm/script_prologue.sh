#!/bin/bash -l
umask 077
# Slurm's warning before the end of the walltime is for the worker alone.
trap '' USR1
# From clusters.toml and env=:
module purge
module load gcc/13
export OMP_NUM_THREADS=1
exec /usr/bin/python3 -I /home/ada/worker.pyz bag '/home/ada/my bags/01JD' /home/ada/key

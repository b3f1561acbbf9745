#!/bin/sh
umask 077
# Slurm's warning before the end of the walltime is for the worker alone.
trap '' USR1
exec /usr/bin/python3 -I /home/ada/worker.pyz bag '/home/ada/my bags/01JD' /home/ada/key

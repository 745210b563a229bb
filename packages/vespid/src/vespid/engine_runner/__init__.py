"""The isolated process that talks to model providers, and to nothing else."""

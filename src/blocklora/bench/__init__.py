"""Grids of runs that survive interruptions, and tables and plots that say what their figures mean."""

from blocklora.bench.bench import run_grid
from blocklora.bench.grid import load_grid
from blocklora.bench.progress import BenchProgress
from blocklora.bench.report import write_tables

__all__ = ["BenchProgress", "load_grid", "run_grid", "write_tables"]

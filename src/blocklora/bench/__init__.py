"""Grids of runs that survive interruptions, and tables and plots that say what their figures mean.

``blocklora.bench.run.run_grid`` and ``blocklora.bench.report.write_tables`` are the ways in; nothing is imported
here, so that a worker process starts at once.
"""

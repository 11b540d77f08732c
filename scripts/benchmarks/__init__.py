"""What `bench.py` measures, one subject per module; `bench.py` has the command line and the manual."""

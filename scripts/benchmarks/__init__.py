"""What `bench.py` measures, one subject per module; `bench.py` is the door and the manual."""

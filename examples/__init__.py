"""Short programs that run as they are. `python -m examples.demo` shows the main job, `quickstart.py` is where to begin."""

"""Short programs that run as they are. Begin with `quickstart.py`; `python -m examples.demo` shows the main job."""

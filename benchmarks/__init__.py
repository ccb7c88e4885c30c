"""What the library costs, beside what it stands on and beside its peers. `make bench` runs `benchmarks.overhead`."""

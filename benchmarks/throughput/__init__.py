"""The parts of `attack_throughput.py`: the case everyone attacks, the libraries, the floor, ours, and the clock."""

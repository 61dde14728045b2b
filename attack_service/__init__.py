"""The attack service: trains or loads image classifiers, attacks them, and streams every sample's time to failure."""

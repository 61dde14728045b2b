"""Protocol buffers to and from the values of the survival service; only this folder takes messages apart."""

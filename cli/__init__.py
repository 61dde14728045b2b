"""`afrctl`: the command line that drives the attack service and the survival service."""

"""The public bench: ours beside every peer that is installed, alternating in one run; raw samples are kept. Never an assertion."""

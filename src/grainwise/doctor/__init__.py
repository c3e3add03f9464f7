"""What this machine offers, and what messages cost on it beside what is assumed: `grainwise doctor`."""

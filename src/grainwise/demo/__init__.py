"""Four short stories that run naive parallel code on real input and time it: `grainwise demo`."""

"""Model files as a whole: inspect, quantise, convert."""

"""Measurements. Figures are ratios and differences within one run: machines are noisy."""

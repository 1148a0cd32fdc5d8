"""Side by side with named peers, in one run, as ratios. ``make bench`` runs them all."""

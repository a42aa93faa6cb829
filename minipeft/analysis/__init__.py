"""Looking at what was trained: sanity, spectra, drift, sizes, plots, support."""

"""Images to a bundle: gather, fit, calibrate, prove and write."""

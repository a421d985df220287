"""Text and images to measure and calibrate on."""

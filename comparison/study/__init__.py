"""What many seeds say: accuracies, differences, costs, calibration; the report of a study."""

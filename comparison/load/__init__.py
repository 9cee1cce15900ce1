"""What load tests and the benchmark of serving say; the report with the models' cards."""

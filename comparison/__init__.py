"""Statistics, tables and plots over stored models and load-test results; the HTML report."""

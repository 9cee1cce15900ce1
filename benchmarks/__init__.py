"""Measurements that compare side by side, in one run. They print ratios; none of them is a test."""

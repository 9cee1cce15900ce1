"""Bytes in and out: BentoML's port and the data port. What the bytes mean is not their business."""

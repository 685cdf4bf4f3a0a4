"""Devices and processes that a job runs on; nothing of training."""

"""Conversations: chat template, training sequences with loss masks, reasoning control, packing."""

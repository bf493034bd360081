"""The open recipe for Nemotron 3 Nano: data, model, training and alignment, from raw text to a final model."""

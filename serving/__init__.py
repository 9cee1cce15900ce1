"""From stored files to answers over HTTP. Knows nothing of training: a model is its files and its card."""

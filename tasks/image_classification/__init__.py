"""Image classification with transformers that shift and add: data, training, scoring, predicting, comparing."""
